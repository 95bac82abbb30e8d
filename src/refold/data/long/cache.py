"""Prepared data on disk: NumPy arrays that are mapped into memory, not read into it.

A folder per source, recipe and state of the files: values.npy, present.npy, close.npy, times.npy and meta.json. It is
written under another name and renamed when complete, so that a folder which exists is whole, whoever else writes it.
"""

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from refold.data.bars.findings import FINDINGS
from refold.data.pipeline import Prepared, Recipe
from refold.data.windows.scaler import Scaler
from refold.data.windows.split import PARTS
from refold.data.windows.views import Series

_VERSION = 2  # of the format and of the meaning of what is in it


def key(identity: Any, recipe: Recipe, scaler: Scaler | None) -> str:
    """Name of the folder: a hash of whatever decides what is in it."""
    settings = [_VERSION, identity, _plain(recipe), scaler and [scaler.mean.tolist(), scaler.std.tolist()]]
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _plain(thing: Any) -> Any:
    """Settings of an object as nested lists and dicts, with the names of its classes."""
    if isinstance(thing, dict):
        return {str(name): _plain(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_plain(value) for value in thing]
    if hasattr(thing, "__dict__"):
        return [type(thing).__name__, _plain(vars(thing))]
    return thing


def write(make: Callable[[Path], Prepared], folder: Path) -> None:
    """Write all of it, then rename. If somebody else was faster, theirs stays: it is the same.

    Args: make: prepares the data, with its arrays as .npy files in the folder that it is given.
    """
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        prepared = make(building)
        prepared.findings.write_csv(building / "findings.csv")
        (building / "meta.json").write_text(json.dumps(_meta(prepared)))
        building.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _meta(prepared: Prepared) -> dict[str, Any]:
    dtype = prepared.series.time_dtype
    return {
        "time": ["date"] if dtype == pl.Date else ["datetime", dtype.time_unit, dtype.time_zone],
        "asset_names": prepared.series.asset_names,
        "asset_starts": prepared.series.asset_starts.tolist(),
        "column_names": prepared.column_names,
        "relative": prepared.series.relative,
        "mean": prepared.scaler.mean.tolist(),
        "std": prepared.scaler.std.tolist(),
        "segments": {part: prepared.segments[part].tolist() for part in PARTS},
        "gap_bars": prepared.gap_bars,
        "summary": prepared.summary,
        "fingerprint": prepared.fingerprint,
    }


def read(folder: Path) -> Prepared:
    """What `write` wrote, with its arrays mapped into memory: pages are read when windows touch them."""
    meta = json.loads((folder / "meta.json").read_text())
    kind, *details = meta["time"]
    pages: list[mmap.mmap] = []
    return Prepared(
        series=Series(
            values=_mapped(folder / "values.npy", pages),
            present=_mapped(folder / "present.npy", pages),
            times=np.load(folder / "times.npy", mmap_mode="r"),
            time_dtype=pl.Date() if kind == "date" else pl.Datetime(*details),
            close=_mapped(folder / "close.npy", pages),
            asset_names=tuple(meta["asset_names"]),
            asset_starts=np.array(meta["asset_starts"]),
            relative=tuple(meta["relative"]),
            pages=tuple(pages),
        ),
        column_names=tuple(meta["column_names"]),
        scaler=Scaler(torch.tensor(meta["mean"], dtype=torch.float64), torch.tensor(meta["std"], dtype=torch.float64)),
        segments={part: np.array(meta["segments"][part], dtype=np.int64).reshape(-1, 2) for part in PARTS},
        gap_bars=meta["gap_bars"],
        findings=pl.read_csv(folder / "findings.csv", schema_overrides=FINDINGS),
        summary=meta["summary"],
        fingerprint=meta["fingerprint"],
    )


def _mapped(path: Path, every: list[mmap.mmap]) -> torch.Tensor | None:
    """An array as it lies in a file, whose pages are added to `every`; None if there is no such file."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
        # pages would be private to the process if anything wrote to them; torch warns of arrays that are read-only
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    # shuffled windows are far apart: reading ahead of each would read the series many times over
    pages.madvise(mmap.MADV_RANDOM)
    every.append(pages)
    return torch.from_numpy(np.frombuffer(pages, dtype=dtype, offset=offset).reshape(shape))
