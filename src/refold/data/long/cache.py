"""Prepared data on disk: NumPy arrays that are mapped into memory, not read into it.

There is a folder for each source, recipe and state of the files, with values.npy, present.npy, close.npy, label.npy,
times.npy, findings.csv and meta.json. It is written under another name and renamed when it is complete, so a folder
that exists is complete even if several processes write it.
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

from refold.data.bars.expected import Timetables
from refold.data.bars.findings import FINDINGS
from refold.data.pipeline import Prepared
from refold.data.recipe import Recipe
from refold.data.windows.scaler import Scaler, to_lists
from refold.data.windows.split import PARTS
from refold.data.windows.views import Series

_VERSION = 4  # of the format and of the meaning of what is in it


def key(identity: Any, recipe: Recipe, scaler: Scaler | None) -> str:
    """Return the name of the folder for prepared data: a hash of everything that decides the data.

    Args:
        identity: plain values that change when the source may have changed.
        recipe: how bars become windows.
        scaler: the scale; None if it is fitted to the bars.
    """
    settings = [_VERSION, identity, _plain(recipe), scaler and to_lists(scaler.state_dict())]
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _plain(thing: Any) -> Any:
    """Turn an object into nested lists and dicts of its settings, with the names of its classes."""
    if isinstance(thing, dict):
        return {str(name): _plain(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_plain(value) for value in thing]
    if hasattr(thing, "__dict__"):
        return [type(thing).__name__, _plain(vars(thing))]
    return thing


def write_folder(make: Callable[[Path], Prepared], folder: Path) -> None:
    """Write prepared data to a folder, unless another process finishes first: then its folder stays.

    Args:
        make: prepares the data, with its arrays as .npy files in the folder that it is given.
        folder: the folder to write.

    Raises:
        OSError: the folder cannot be written.
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
    """Describe prepared data, all but its arrays and findings, as plain values."""
    dtype = prepared.series.time_dtype
    return {
        "time": ["datetime", dtype.time_unit, dtype.time_zone] if isinstance(dtype, pl.Datetime) else ["date"],
        "asset_names": prepared.series.asset_names,
        "asset_starts": prepared.series.asset_starts.tolist(),
        "entries": prepared.entries,
        "column_names": prepared.column_names,
        "relative": prepared.series.relative,
        "scaler": to_lists(prepared.scaler.state_dict()),
        "segments": {part: prepared.segments[part].tolist() for part in PARTS},
        "gap_bars": prepared.gap_bars,
        "timetables": prepared.timetables.to_plain(),
        "windows_lost": prepared.windows_lost,
        "summary": prepared.summary,
        "fingerprint": prepared.fingerprint,
    }


def read(folder: Path) -> Prepared:
    """Open what `write` wrote, with its arrays mapped into memory: pages are read when windows touch them.

    Args:
        folder: the folder that was written.
    """
    meta = json.loads((folder / "meta.json").read_text())
    kind, *details = meta["time"]
    pages: list[mmap.mmap] = []
    values = _mapped(folder / "values.npy", pages)
    assert values is not None
    return Prepared(
        series=Series(
            values=values,
            present=_mapped(folder / "present.npy", pages),
            times=np.load(folder / "times.npy", mmap_mode="r"),
            time_dtype=pl.Date() if kind == "date" else pl.Datetime(*details),
            close=_mapped(folder / "close.npy", pages),
            label=_mapped(folder / "label.npy", pages),
            asset_names=tuple(meta["asset_names"]),
            asset_starts=np.array(meta["asset_starts"]),
            relative=tuple(meta["relative"]),
            moving=_mapped(folder / "moving.npy", pages),
            pages=tuple(pages),
        ),
        entries=tuple(meta["entries"]),
        column_names=tuple(meta["column_names"]),
        scaler=Scaler.from_state_dict(meta["scaler"]),
        segments={part: np.array(meta["segments"][part], dtype=np.int64).reshape(-1, 2) for part in PARTS},
        gap_bars=meta["gap_bars"],
        timetables=Timetables.from_plain(meta["timetables"]),
        windows_lost=meta["windows_lost"],
        findings=pl.read_csv(folder / "findings.csv", schema_overrides=FINDINGS),
        summary=meta["summary"],
        fingerprint=meta["fingerprint"],
    )


def _mapped(path: Path, pages: list[mmap.mmap]) -> torch.Tensor | None:
    """Map an array of a file into memory and add its pages to `pages`; return None if there is no such file."""
    if not path.exists():
        return None
    # the pages are copied on write, since torch warns of arrays that are read-only; nothing writes to them
    array = np.load(path, mmap_mode="c")
    mapped = array.base
    assert isinstance(mapped, mmap.mmap)
    # shuffled windows are far apart: reading ahead of each would read the series many times over
    mapped.madvise(mmap.MADV_RANDOM)
    pages.append(mapped)
    return torch.from_numpy(array)
