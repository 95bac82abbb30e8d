"""Collect what a report shows beside scores: windows to look at, codes of windows, errors of features.

Codes and errors are collected while bars are scored; of each asset two windows are reconstructed once more.

Letters: N rows of a series, B windows, T bars, C columns of a window, F features of one asset, Z numbers of a code.
"""

import math
from collections.abc import Callable, Iterable
from copy import copy
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data import Windows
from refold.data.long.ordered import OrderedBars
from refold.data.unsplit import UnsplitSeries, unsplit_series
from refold.report.sections import WindowExample
from refold.scoring.detector import Detector
from refold.scoring.measuring import Watch
from refold.scoring.scan import Piece, context

MOST_ASSETS = 20
"""Assets of which windows are shown: those with the highest scores."""

MOST_WINDOWS = 3_000
"""Windows of a part whose codes and errors are kept, spread evenly over it."""

MOST_SCORES = 100_000
"""Scores of an asset among which the median one is looked for, spread evenly over it."""


class Evidence(NamedTuple):
    """Hold everything that the page shows beside scores.

    Attributes:
        windows: to look at.
        latents: timestamp, asset, score, z0, z1, ... of windows, at their last bars.
        feature_errors: part -> feature -> mean squared error, in training variances.
    """

    windows: list[WindowExample]
    latents: pl.DataFrame
    feature_errors: dict[str, dict[str, float]]


class _Seen(NamedTuple):
    """Some windows of a part.

    Attributes:
        place: number of the first one, to sort by.
        keys: timestamp and asset of their last bars.
        codes: (B, Z).
        squares: (F,) sums of squared errors over bars.
        bars: number of bars.
    """

    place: int
    keys: pl.DataFrame
    codes: np.ndarray
    squares: Tensor
    bars: int


class Sample:
    """Codes and errors of windows spread evenly over scored bars, collected while they are scored.

    Args:
        detector: which scores.
    """

    def __init__(self, detector: Detector) -> None:
        self.window_size = detector.recipe.window_size
        self.features = detector.features
        self.panel = detector.recipe.layout == "panel"
        self.windows: list[Windows] = []
        self._seen: dict[str, list[_Seen]] = {}

    def of_piece(self, name: str, rows: int) -> Callable[[Piece], Watch]:
        """Return the argument `watch` of `scan`.

        Args:
            name: name under which the bars are shown, like that of a part.
            rows: number of bars in all pieces.
        """

        def watch(here: Piece) -> Watch:
            origin = here.made.origin.max(axis=1)
            inside = (origin >= here.kept.start) & (origin < here.kept.stop)
            place = origin - here.kept.start + here.start
            if rows == here.kept.stop - here.kept.start:
                self.windows.append(self._cut(here.made))
            if self.panel:  # one piece, with a row for all assets of a moment
                return self._watch(name, np.arange(len(place)), len(place))
            return self._watch(name, np.where(inside, place, -1), rows)

        return watch

    def of_part(self, name: str, made: UnsplitSeries) -> Watch:
        """Return a function that collects codes and errors from the windows of a part of a series.

        Args:
            name: name of the part.
            made: the series, with the part's runs.
        """
        self.windows.append(self._cut(made))
        rows = int(made.segments[:, 1].sum())
        return self._watch(name, np.arange(len(made.origin)), rows)

    def _cut(self, made: UnsplitSeries) -> Windows:
        """Cut a series into windows of stride 1."""
        return Windows(made.series, made.segments, window_size=self.window_size, stride=1)

    def _watch(self, name: str, place: np.ndarray, rows: int) -> Watch:
        """Return a function that collects codes and errors from windows that are spread evenly over a part.

        Args:
            name: name of the part.
            place: (N,) number of each row of the series in the whole part; -1 for rows of which no window is kept.
            rows: number of rows of the part.
        """
        step = max(1, math.ceil(rows / MOST_WINDOWS))
        seen = self._seen.setdefault(name, [])
        F = len(self.features)

        def watch(windows: Windows, number: np.ndarray, truth: Tensor, codes: Tensor, made: Tensor) -> None:
            last = windows.starts(number) + windows.window_size - 1
            chosen = np.flatnonzero((place[last] >= 0) & (place[last] % step == 0))
            if not len(chosen):
                return
            errors = (made[chosen] - truth[chosen]).cpu()
            mask = windows.mask(number[chosen])
            errors = (errors.flatten(0, 1) if mask is None else errors[mask.cpu()]).double().square()  # (bars, C)
            squares = errors.view(len(errors), -1, F).sum((0, 1))  # over the assets of a panel too
            keys = pl.DataFrame(
                {"timestamp": _timestamps(windows, last[chosen]), "asset": windows.series.assets(last[chosen])}
            )
            seen.append(
                _Seen(int(place[last[chosen[0]]]), keys, codes[chosen].cpu().numpy(), squares, errors.numel() // F)
            )

        return watch

    def anew(self) -> "Sample":
        """Return a sample of the same kind that has collected nothing."""
        fresh = copy(self)
        fresh.windows, fresh._seen = [], {}
        return fresh

    def merge(self, other: "Sample") -> None:
        """Take what was collected of other pieces."""
        self.windows += other.windows
        for name, seen in other._seen.items():
            self._seen.setdefault(name, []).extend(seen)

    def latents(self) -> pl.DataFrame:
        """Return timestamp and asset of the last bar and z0, z1, ... of the windows that were kept, in order."""
        seen = [one for part in self._seen.values() for one in sorted(part, key=lambda one: one.place)]
        codes = np.concatenate([one.codes for one in seen])
        table = pl.concat(one.keys for one in seen)
        return table.with_columns(pl.Series(f"z{n}", column) for n, column in enumerate(codes.T))

    def feature_errors(self) -> dict[str, dict[str, float]]:
        """Return part -> feature -> mean squared error of those windows, in training variances."""
        found = {}
        for name, seen in self._seen.items():
            if seen:
                nothing = torch.zeros_like(seen[0].squares)
                means = sum((one.squares for one in seen), nothing) / sum(one.bars for one in seen)
                found[name] = dict(zip(self.features, means.tolist(), strict=True))
        return found


def gather(detector: Detector, sample: Sample, bars: OrderedBars | None, scores: pl.LazyFrame) -> Evidence:
    """Return what the page shows beside the scores of bars.

    Args:
        detector: which scored.
        sample: the windows that were collected while the bars were scored.
        bars: all bars; if they were scored in pieces, windows around remarkable ones are cut from them once more. None
            if a run's own parts were scored.
        scores: the columns of scores.parquet.
    """
    remarked = remarkable(scores)
    windows: Iterable[Windows] = sample.windows
    if not sample.windows and bars is not None:
        windows = _windows_around(detector, bars, remarked)
    return Evidence(
        windows=examples(detector, windows, remarked),
        latents=with_scores(sample.latents(), scores, panel=sample.panel),
        feature_errors=sample.feature_errors(),
    )


def _windows_around(detector: Detector, bars: OrderedBars, remarked: pl.DataFrame) -> Iterable[Windows]:
    """Cut windows around some bars of a table that is longer than a piece."""
    keys = ["asset", "timestamp"]
    rows = bars.bars.select(keys).with_row_index("row").join(remarked.lazy(), on=keys, how="semi")
    for row in rows.collect(engine="streaming")["row"]:
        part = bars.slice(*bars.rows_near(row, *context(detector)))
        made = unsplit_series(part, detector.recipe, detector.scaler, bars.market(part))
        yield Windows(made.series, made.segments, window_size=detector.recipe.window_size, stride=1)


def with_scores(latents: pl.DataFrame, scores: pl.LazyFrame, *, panel: bool) -> pl.DataFrame:
    """Add the score of each window's last bar to codes of windows.

    Args:
        latents: timestamp, asset, z0, ...
        scores: the columns of scores.parquet.
        panel: whether a window holds all assets; its score is then the highest of theirs.

    Returns:
        The codes with a column score, in their order.
    """
    keys = ["timestamp"] if panel else ["timestamp", "asset"]
    asked = scores.select(*keys, "score").join(latents.lazy(), on=keys, how="semi")  # first: there are few latents
    own = asked.group_by(keys).agg(pl.col("score").max()).collect(engine="streaming")
    return latents.join(own, on=keys, how="left", maintain_order="left")


def remarkable(scores: pl.LazyFrame) -> pl.DataFrame:
    """Find bars worth a look: of each asset the highest score and the median one.

    Args:
        scores: the columns of scores.parquet.

    Returns:
        asset, timestamp, label; assets with the highest scores first, at most MOST_ASSETS.
    """
    known = scores.filter(pl.col("score").is_not_null()).select("asset", "timestamp", "score")
    tops = known.group_by("asset").agg(pl.col("score").max().alias("top"), pl.len().alias("bars"))
    tops = tops.sort("top", "asset", descending=[True, False]).head(MOST_ASSETS).collect(engine="streaming")
    rows = []
    for asset, top, bars in tops.iter_rows():
        own = known.filter(pl.col("asset") == asset)
        highest = own.filter(pl.col("score") == top).head(1).collect(engine="streaming")
        some = own.gather_every(math.ceil(bars / MOST_SCORES)).collect(engine="streaming")
        median = some[(some["score"] - some["score"].median()).abs().arg_min() or 0]
        rows += [highest.with_columns(label=pl.lit("highest score")), median.with_columns(label=pl.lit("median score"))]
    return pl.concat(rows).select("asset", "timestamp", "label")


def examples(detector: Detector, parts: Iterable[Windows], bars: pl.DataFrame) -> list[WindowExample]:
    """Find for each bar of a list the window that has it nearest to its middle, and reconstruct it.

    Args:
        detector: the detector whose model reconstructs.
        parts: windows of stride 1.
        bars: asset, timestamp, label. Bars that no window holds are left out.

    Returns:
        Windows in the units of the features, in the order of the list.
    """
    keys = ["timestamp"] if detector.recipe.layout == "panel" else ["timestamp", "asset"]
    shown = {}
    for windows in parts:
        every = np.arange(len(windows.series.times))
        rows = pl.DataFrame({"timestamp": _timestamps(windows, every), "asset": windows.series.assets(every)})
        rows = bars.with_row_index("place").join(rows.with_row_index("row").select(*keys, "row"), on=keys)
        found = [(bar, middle_window(windows, bar["row"])) for bar in rows.iter_rows(named=True)]
        found = [(bar, number) for bar, number in found if number is not None]
        if found:
            numbers = np.array([number for _, number in found])
            drawn = _draw(detector, windows, numbers, [bar for bar, _ in found])
            shown |= {bar["place"]: example for (bar, _), example in zip(found, drawn, strict=True)}
    return [shown[place] for place in sorted(shown)]


def _draw(detector: Detector, windows: Windows, numbers: np.ndarray, bars: list[dict]) -> list[WindowExample]:
    """Reconstruct some windows, of which each is shown for one bar."""
    F, mask = len(detector.features), windows.mask(numbers)
    truth, _, made = detector.reconstruct(windows, numbers, mask)
    pictures = []
    for place, bar in enumerate(bars):
        scale = detector.scaler.at(windows.series, windows.rows(numbers[place : place + 1])[0])
        pair = [scale.inverse_transform(part[place].cpu()) for part in (truth, made)]
        if mask is not None:
            pair = [part.masked_fill(~mask[place].cpu()[:, None], torch.nan) for part in pair]
        if detector.recipe.layout == "panel":
            first = detector.columns.index(f"{bar['asset']}/{detector.features[0]}")
            pair = [part[:, first : first + F] for part in pair]
        moments = _timestamps(windows, windows.rows(numbers[place : place + 1])[0])
        if getattr(moments.dtype, "time_zone", None):
            moments = moments.dt.replace_time_zone(None)  # as the clock on the wall, like the rest of the page
        pictures.append(WindowExample(bar["asset"], bar["label"], moments.to_numpy(), pair[0].numpy(), pair[1].numpy()))
    return pictures


def middle_window(windows: Windows, row: int) -> int | None:
    """Return the number of the window that has a row nearest to its middle; None if no window holds it.

    Args:
        windows: windows of stride 1.
        row: number of a row of their series.
    """
    segment = int(np.searchsorted(windows.first_rows, row, side="right")) - 1
    if segment < 0:
        return None
    count = int(windows.offsets[segment + 1] - windows.offsets[segment])
    place = row - int(windows.first_rows[segment])
    if place >= count + windows.window_size - 1:
        return None
    inside = min(max(place - windows.window_size // 2, 0), count - 1)
    return int(windows.offsets[segment]) + inside


def _timestamps(windows: Windows, rows: np.ndarray) -> pl.Series:
    """Return timestamps of rows (N,), of the type that the bars had."""
    return pl.Series(windows.series.times[rows]).cast(windows.series.time_dtype)
