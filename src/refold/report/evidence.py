"""What the page shows beside scores: windows to look at, codes of windows, errors of features.

Letters: N rows of a series, n windows, T bars, C columns of a window, F features of one asset, Z numbers of a code.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data import Windows
from refold.data.long.ordered import OrderedBars
from refold.data.unsplit import unsplit_series
from refold.report.sections import WindowExample
from refold.scoring.detector import Detector
from refold.scoring.scan import SLICE, SLICES, context, sampled

MOST_ASSETS = 20
"""Assets of which windows are shown: those with the highest scores."""

MOST_WINDOWS = 3_000
"""Windows of a part whose codes and errors are measured, spread evenly over it."""

MOST_SCORES = 100_000
"""Scores of an asset among which the median one is looked for, spread evenly over it."""


class Evidence(NamedTuple):
    """windows: to look at. latents: timestamp, asset, score, z0, z1, ... of windows, at their last bars.
    feature_errors: part -> feature -> mean squared error, in training variances."""

    windows: list[WindowExample]
    latents: pl.DataFrame
    feature_errors: dict[str, dict[str, float]]


def of_parts(detector: Detector, parts: Mapping[str, Windows], scores: pl.LazyFrame) -> Evidence:
    """Evidence of parts of a series. Args: parts: name -> windows of stride 1. scores: as in scores.parquet."""
    return _gather(detector, {name: [windows] for name, windows in parts.items()}, [*parts.values()], scores)


def of_bars(detector: Detector, bars: OrderedBars, scores: pl.LazyFrame, name: str) -> Evidence:
    """Evidence of a table of any length; of a long one from slices, so that memory does not grow with it.

    Args: scores: as in scores.parquet. name: of these bars, as a part.
    """

    def cut(first: int, end: int) -> Windows:
        part = bars.slice(first, end)
        made = unsplit_series(part, detector.recipe, detector.scaler, bars.market(part))
        return Windows(made.series, made.segments, window_size=detector.recipe.window_size, stride=1)

    if bars.rows <= SLICES * SLICE or detector.recipe.layout == "panel":
        everything = cut(0, bars.rows)
        return _gather(detector, {name: [everything]}, [everything], scores)
    spread = [cut(slice_.first, slice_.end) for slice_ in sampled(bars)]
    keys = ["asset", "timestamp"]
    rows = bars.bars.select(keys).with_row_index("row").join(remarkable(scores).lazy(), on=keys, how="semi")
    near = (cut(*bars.rows_near(row, *context(detector))) for row in rows.collect(engine="streaming")["row"])
    return _gather(detector, {name: spread}, near, scores)


def _gather(
    detector: Detector, parts: Mapping[str, list[Windows]], near: Iterable[Windows], scores: pl.LazyFrame
) -> Evidence:
    samples = {name: sample(detector, pieces) for name, pieces in parts.items() if sum(map(len, pieces))}
    latents = pl.concat(latents for latents, _ in samples.values())
    return Evidence(
        windows=examples(detector, near, remarkable(scores)),
        latents=with_scores(latents, scores, panel=detector.recipe.layout == "panel"),
        feature_errors={name: errors for name, (_, errors) in samples.items()},
    )


def sample(detector: Detector, pieces: Sequence[Windows]) -> tuple[pl.DataFrame, dict[str, float]]:
    """Codes of windows spread evenly over some pieces, and how well each feature is reconstructed.

    Returns: timestamp and asset of the last bar, z0, z1, ...; feature -> mean squared error, in training variances.
    """
    F = len(detector.features)
    borders = np.cumsum([0, *map(len, pieces)])
    chosen = np.linspace(0, borders[-1] - 1, min(borders[-1], MOST_WINDOWS)).round().astype(np.int64)
    tables, squares, counts = [], 0.0, 0
    for windows, first, end in zip(pieces, borders[:-1], borders[1:], strict=True):
        numbers = chosen[(chosen >= first) & (chosen < end)] - first
        for start in range(0, len(numbers), detector.batch):
            own = numbers[start : start + detector.batch]
            found = _reconstruct(detector, windows, own)
            errors = (found.made - found.truth)[found.present].double().square()  # (B, T, C) -> (present bars, C)
            squares = squares + errors.view(len(errors), -1, F).sum((0, 1))  # over the assets of a panel too
            counts += errors.numel() // F
            last = windows.starts(own) + windows.window_size - 1
            keys = {"timestamp": _moments(windows, last), "asset": windows.series.assets(last)}
            codes = {f"z{n}": column for n, column in enumerate(found.code.numpy().T)}
            tables.append(pl.DataFrame({**keys, **codes}))
    return pl.concat(tables), dict(zip(detector.features, (squares / counts).tolist(), strict=True))


def with_scores(latents: pl.DataFrame, scores: pl.LazyFrame, *, panel: bool) -> pl.DataFrame:
    """Latents with the score of each window's last bar; of a panel, the highest of its assets then."""
    keys = ["timestamp"] if panel else ["timestamp", "asset"]
    asked = scores.select(*keys, "score").join(latents.lazy(), on=keys, how="semi")  # first: there are few latents
    own = asked.group_by(keys).agg(pl.col("score").max()).collect(engine="streaming")
    return latents.join(own, on=keys, how="left", maintain_order="left")


def remarkable(scores: pl.LazyFrame) -> pl.DataFrame:
    """Bars worth a look: of each asset the highest score and the median one.

    Returns: asset, timestamp, label; assets with the highest scores first, at most MOST_ASSETS.
    """
    known = scores.filter(pl.col("score").is_not_null()).select("asset", "timestamp", "score")
    tops = known.group_by("asset").agg(pl.col("score").max().alias("top"), pl.len().alias("bars"))
    tops = tops.sort("top", "asset", descending=[True, False]).head(MOST_ASSETS).collect(engine="streaming")
    rows = []
    for asset, top, bars in tops.iter_rows():
        own = known.filter(pl.col("asset") == asset)
        highest = own.filter(pl.col("score") == top).head(1).collect(engine="streaming")
        some = own.gather_every(math.ceil(bars / MOST_SCORES)).collect(engine="streaming")
        median = some[(some["score"] - some["score"].median()).abs().arg_min()]
        rows += [highest.with_columns(label=pl.lit("highest score")), median.with_columns(label=pl.lit("median score"))]
    return pl.concat(rows).select("asset", "timestamp", "label")


def examples(detector: Detector, parts: Iterable[Windows], bars: pl.DataFrame) -> list[WindowExample]:
    """For each bar of a list the window that has it nearest to its middle; bars that no window holds are passed over.

    Args: parts: windows of stride 1. bars: asset, timestamp, label. Returns: in the units of the features.
    """
    panel, F = detector.recipe.layout == "panel", len(detector.features)
    keys = ["timestamp"] if panel else ["timestamp", "asset"]
    shown = {}
    for windows in parts:
        every = np.arange(len(windows.series.times))
        rows = pl.DataFrame({"timestamp": _moments(windows, every), "asset": windows.series.assets(every)})
        rows = rows.with_row_index("row").select(*keys, "row")
        for bar in bars.with_row_index("place").join(rows, on=keys).iter_rows(named=True):
            number = around(windows, bar["row"])
            if number is None:
                continue
            found = _reconstruct(detector, windows, np.array([number]))
            present = found.present[0, :, None]
            truth, made = (detector.scaler.inverse_transform(part[0]) for part in (found.truth, found.made))
            truth, made = (part.masked_fill(~present, torch.nan).numpy() for part in (truth, made))
            if panel:
                first = detector.columns.index(f"{bar['asset']}/{detector.features[0]}")
                truth, made = truth[:, first : first + F], made[:, first : first + F]
            moments = _moments(windows, windows.rows(np.array([number]))[0])
            if getattr(moments.dtype, "time_zone", None):
                moments = moments.dt.replace_time_zone(None)  # as the clock on the wall, like the rest of the page
            shown[bar["place"]] = WindowExample(bar["asset"], bar["label"], moments.to_numpy(), truth, made)
    return [shown[place] for place in sorted(shown)]


def around(windows: Windows, row: int) -> int | None:
    """The number of the window, of stride 1, that has a row nearest to its middle; None if no window holds it."""
    segment = int(np.searchsorted(windows.first_rows, row, side="right")) - 1
    if segment < 0:
        return None
    count = int(windows.offsets[segment + 1] - windows.offsets[segment])
    place = row - int(windows.first_rows[segment])
    if place >= count + windows.window_size - 1:
        return None
    inside = min(max(place - windows.window_size // 2, 0), count - 1)
    return int(windows.offsets[segment]) + inside


def _moments(windows: Windows, rows: np.ndarray) -> pl.Series:
    """Timestamps of rows (N,), of the type that the bars had."""
    return pl.Series(windows.series.times[rows]).cast(windows.series.time_dtype)


class _Reconstructed(NamedTuple):
    """truth, made: (n, T, C), scaled. code: (n, Z). present: (n, T) bool. All on the CPU."""

    truth: Tensor
    code: Tensor
    made: Tensor
    present: Tensor


@torch.inference_mode()
def _reconstruct(detector: Detector, windows: Windows, numbers: np.ndarray) -> _Reconstructed:
    device = next(detector.autoencoder.parameters()).device
    truth, mask = windows.gather(numbers), windows.mask(numbers)
    moved = None if mask is None else mask.to(device)
    code = detector.autoencoder.encode(truth.to(device), moved)
    made = detector.autoencoder.decode(code, truth.shape[1], mask=moved)
    present = torch.ones(truth.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
    return _Reconstructed(truth.cpu(), code.cpu(), made.cpu(), present)
