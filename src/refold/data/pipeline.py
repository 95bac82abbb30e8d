"""Turn a table of bars into the series that windows are cut from, with its parts and its scale.

Letters: N rows of a series, C columns.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from refold.data.bars.dates import moment_in_words
from refold.data.bars.entries import Entry, choose, columns_of, find_feature, name_of, some, usable_columns
from refold.data.bars.expected import NOTHING, Timetables
from refold.data.bars.findings import describe_findings, merge
from refold.data.bars.table import value_columns
from refold.data.feature_table import FeatureTable, feature_table, panel_table, rows_of, scaled
from refold.data.fingerprint import hash_bars
from refold.data.long.ordered import OrderedBars
from refold.data.long.spool import Spool
from refold.data.look_ahead import LookAheadTest
from refold.data.lost import count_lost, lost_in_words, refuse_few
from refold.data.recipe import Recipe
from refold.data.scale_choice import choose_scale, scale_in_words
from refold.data.scale_fit import ScaleFit
from refold.data.windows.scaler import Scaler
from refold.data.windows.split import PARTS, Part, divide, timeline
from refold.data.windows.views import Series
from refold.errors import DataError

log = logging.getLogger("refold.data")

BARS = 2_000_000
"""Bars whose features are computed at a time, in some 0.5 GB, where the table may be longer than memory. An asset with
more bars is not divided."""


@dataclass(frozen=True)
class Prepared:
    """The series that windows are cut from, with its parts and its scale.

    Attributes:
        series: the scaled features of all bars.
        entries: of data.features, such as they mean the same features for any columns.
        column_names: names of the columns of the series.
        scaler: the scale.
        segments: part -> (S, 2) int64, first row and number of rows of each unbroken run.
        gap_bars: bars that each asset loses between parts.
        timetables: of the assets.
        windows_lost: windows (at stride 1) that "holes" and "masked" bars cost, and the "policies" of the checks that
            found them.
        findings: what the checks found: check, policy, asset, bars, first.
        summary: rows, assets, dates and parts in words.
        fingerprint: hash of the bars, twelve hexadecimal digits.
    """

    series: Series
    entries: tuple[Entry, ...]
    column_names: tuple[str, ...]
    scaler: Scaler
    segments: dict[Part, np.ndarray]
    gap_bars: int
    timetables: Timetables
    windows_lost: dict[str, Any]
    findings: pl.DataFrame
    summary: str
    fingerprint: str


def prepare(bars: OrderedBars, recipe: Recipe, scaler: Scaler | None = None, folder: Path | None = None) -> Prepared:
    """Check bars, compute their features, split them into parts and scale them.

    Args:
        bars: the table.
        recipe: how bars become windows.
        scaler: the scale; None fits one to the training rows.
        folder: where to build the arrays of the series, some whole assets at a time, so that they may be larger than
            memory; None computes and keeps them in memory.

    Returns:
        The series that windows are cut from, and its parts.

    Raises:
        DataError: a check refuses the bars, they lack a column that a feature needs, a part holds no window, or a
            feature is constant on the training rows.
    """
    chosen, fits = recipe.entries is None, scaler is None
    chosen_scale = recipe.scale is None
    columns = value_columns(bars.schema, recipe.checks.kind)
    if chosen:
        recipe = _chosen(bars, columns, recipe)
    if scaler is not None:
        recipe = replace(recipe, scale=scaler.kind)
    elif chosen_scale:
        recipe = replace(recipe, scale=choose_scale(len(bars.assets), recipe))
    while True:
        assembly = _assembled(bars, columns, recipe.resolved(columns), folder, fits=fits)
        constant = assembly.scale.constant_features() if chosen and fits else []
        if constant and len(constant) < len(recipe.features):
            log.info("dropped, since they are constant on the training rows: %s", some(constant))
            kept = tuple(entry for entry in assembly.recipe.entries or () if name_of(entry) not in constant)
            recipe = replace(recipe, entries=kept)
        else:
            if chosen_scale and fits:
                log.info(scale_in_words(recipe.scale or "pooled", len(bars.assets)))
            if chosen and fits and assembly.lacks_windows() and bars.rows <= BARS:
                assembly.advice = _shorter_look_back(bars, columns, assembly.recipe)
            return assembly.finish(scaler)
        assembly.discard()


def _shorter_look_back(bars: OrderedBars, columns: list[str], recipe: Recipe) -> str:
    """Name features that look back on one bar at most, with a window that they leave for all parts, or nothing."""
    short = tuple(entry for entry in recipe.entries or () if find_feature(entry).lookback <= 2)
    if not 0 < len(short) < len(recipe.features):
        return ""
    assembly = _assembled(bars, columns, replace(recipe, entries=short, scale="pooled"), None, fits=False)
    window = assembly.fitting_window()
    names = f"'data.features=[{','.join(map(name_of, short))}]'"
    return f". {names} data.window_size={window} leaves windows for all parts" if window else ""


def _assembled(
    bars: OrderedBars, columns: list[str], recipe: Recipe, folder: Path | None, *, fits: bool
) -> "_Assembly":
    """Check bars, and compute their features, parts and statistics."""
    if recipe.checks.kind == "series":  # what no feature is made of is neither checked nor kept
        bars = bars.keeping([name for name in columns if name in columns_of(recipe.entries or ())])
    market = bars.market()
    recipe = replace(recipe, checks=recipe.checks.knowing(bars.timetables))
    assembly = _Assembly(recipe, folder, bars.findings, fits=fits)
    cuts = bars.cuts(BARS if folder else bars.rows, divide=False)
    tables = (assembly.count_bars(feature_table(bars.slice(cut.first, cut.end), recipe, market)) for cut in cuts)
    for table in [panel_table(list(tables), recipe)] if recipe.layout == "panel" else tables:
        assembly.add_features(table)
    return assembly


def _chosen(bars: OrderedBars, columns: list[str], recipe: Recipe) -> Recipe:
    """Choose the features from the columns, and say in the log which they are and which columns they leave out."""
    kind = recipe.checks.kind
    usable = usable_columns(bars.bars, columns, kind)
    recipe = replace(recipe, entries=choose(usable, kind))
    if kind == "series" and len(usable) < len(columns):
        log.info("left out, since they are empty: %s", some([name for name in columns if name not in usable]))
    if kind == "prices":
        read = columns_of(recipe.entries or ())
        unused = [name for name in columns if name not in read]
        unused = [name if name in usable else f"{name}, which is 0 in some bars" for name in unused]
        rest = f"; not used: {', '.join(unused)}" if unused else ""
        log.info("features, chosen from the columns: %s%s; data.features names others", some(recipe.features), rest)
    return recipe


class _Assembly:
    """A series with its parts, to which tables of whole assets are added one after the other.

    Args:
        recipe: how bars become windows.
        folder: where to build the arrays; None keeps them in memory.
        findings: what was found before the bars were divided into tables.
        fits: whether to fit a scale.
    """

    def __init__(self, recipe: Recipe, folder: Path | None, findings: pl.DataFrame, *, fits: bool) -> None:
        self.recipe = recipe
        self.folder = folder
        self.fits = fits
        self.raw, self.present, self.times, self.close, self.label, self.moving = map(
            self._spool, ("raw", "present", "times", "close", "label", "moving")
        )
        self.digest = hashlib.blake2b(digest_size=6)
        self.findings = [findings]
        self.bars, self.assets, self.longest, self.masked = 0, 0, 0, False
        self.names: list[str] = []
        self.starts: list[np.ndarray] = []
        self.segments: dict[Part, list[np.ndarray]] = {part: [] for part in PARTS}
        self.scale = ScaleFit(recipe)
        self.look_ahead = LookAheadTest()
        self.lost = {"holes": 0, "masked": 0}
        self.advice = ""

    def _spool(self, name: str) -> Spool:
        return Spool(self.folder and self.folder / f"{name}.npy")

    def count_bars(self, table: FeatureTable) -> FeatureTable:
        """Add the bars of a table to hash, counts and findings, and return the table without them."""
        bars = table.checked.bars
        if self.fits:
            self._test_features(table)
        self.findings.append(table.findings)
        self.bars += bars.height
        self.assets += len(table.names)
        hash_bars(self.digest, bars)
        return replace(table, checked=replace(table.checked, bars=bars.clear()))

    def _test_features(self, table: FeatureTable) -> None:
        """Refuse a user's feature that looks ahead, or further back than it says."""
        moment, calendar = table.checked.moment, table.checked.calendar
        train = np.zeros(len(calendar), dtype=bool)
        for part, start, end in self.recipe.split.intervals(calendar, self.recipe.fold):
            train[start:end] |= part == "train"
        features = [find_feature(entry) for entry in self.recipe.entries or ()]
        self.look_ahead.run(table.checked.bars, features, table.rows.run, train[moment])

    def add_features(self, table: FeatureTable) -> None:
        """Add the features of a table to the arrays, the parts and the scale."""
        recipe, rows, calendar = self.recipe, table.rows, table.checked.calendar
        self.table = table
        self.gap = (recipe.span - 1) + (table.lookback - 1) + recipe.split.embargo
        self.intervals = divide(recipe.split, recipe.fold, calendar, table.checked.occurs)
        usable = rows.usable(recipe.max_masked)
        segments = rows.segments(usable, self.intervals, self.gap)
        lost = count_lost(table, usable, self.intervals, self.gap, recipe.span)
        self.lost = {name: count + lost[name] for name, count in self.lost.items()}
        self.longest = max(self.longest, rows.longest_run(usable))
        self.masked |= not rows.present[rows_of(segments)].all()
        if self.fits:
            self.scale.add(table, segments["train"])
        self.names += table.names
        self.starts.append(self.raw.rows + np.flatnonzero(np.diff(rows.asset, prepend=-1)))
        for part in PARTS:
            self.segments[part].append(segments[part] + [self.raw.rows, 0])
        self.raw.add(rows.values)
        self.present.add(rows.present)
        self.times.add(calendar.to_physical().to_numpy()[rows.moment].astype(np.int64))
        if rows.close is not None:
            self.close.add(rows.close)
        if rows.label is not None:
            self.label.add(rows.label)
        if rows.moving is not None:
            self.moving.add(rows.moving)

    def lacks_windows(self) -> bool:
        """Test whether a part has no window."""
        return min(int(np.concatenate(self.segments[part])[:, 1].max(initial=0)) for part in PARTS) < self.recipe.span

    def discard(self) -> None:
        """Free the memory of the arrays, or delete their files."""
        for spool in (self.raw, self.present, self.times, self.close, self.label, self.moving):
            spool.discard()

    def finish(self, scaler: Scaler | None) -> Prepared:
        """Scale the series.

        Args:
            scaler: the scale; None takes the fitted one.

        Returns:
            The series and its parts.

        Raises:
            DataError: a part holds no window, or a feature is constant on the training rows.
        """
        refuse_few(self.bars)
        segments: dict[Part, np.ndarray] = {part: np.concatenate(runs) for part, runs in self.segments.items()}
        self._refuse_empty(segments)
        findings, table, calendar = merge(self.findings), self.table, self.table.checked.calendar
        scaler = scaler or self.scale.scaler(self.names)
        values, starts = self._spool("values"), np.concatenate(self.starts)
        moving = self.moving if self.moving.rows else repeat(None)
        for block, before in zip(self.raw, moving, strict=False):
            rows = np.arange(values.rows, values.rows + len(block))
            asset = np.searchsorted(starts, rows, side="right") - 1
            part = None if before is None else torch.from_numpy(before)
            values.add(scaled(block, scaler.of_rows(self.names, asset, part)))
        self.raw.discard()
        present, close = self._tensor(self.present, self.masked), self._tensor(self.close, self.close.rows > 0)
        label = self._tensor(self.label, self.label.rows > 0)
        return Prepared(
            series=Series(
                values=torch.from_numpy(values.array()),
                present=present,
                times=self.times.array(),
                time_dtype=calendar.dtype,
                close=close,
                label=label,
                asset_names=tuple(self.names),
                asset_starts=starts,
                relative=table.relative,
                moving=self._tensor(self.moving, self.moving.rows > 0),
            ),
            entries=self.recipe.entries or (),
            column_names=table.columns,
            scaler=scaler,
            segments=segments,
            gap_bars=self.gap,
            timetables=self.recipe.checks.timetables or NOTHING,
            windows_lost=self._lost(findings),
            findings=findings,
            summary=self._summary(findings),
            fingerprint=self.digest.hexdigest(),
        )

    def _refuse_empty(self, segments: dict[Part, np.ndarray]) -> None:
        """Raise a DataError if the window is longer than the longest run of bars, or a part holds no window."""
        recipe, span = self.recipe, self.recipe.span
        asked = f"data.window_size is {recipe.window_size}"
        asked += f" and predictor.horizon {recipe.horizon}, together {span}" if recipe.horizon else ""
        if self.longest < span:
            fits = self.longest - recipe.horizon
            remedy = f"choose data.window_size at most {fits}, " if fits > 0 else ""
            if fits <= 0 and self.longest > recipe.window_size:
                remedy = f"choose predictor.horizon at most {self.longest - recipe.window_size}, "
            raise DataError(
                f"{asked}; the longest run of bars without a hole, after the look-back of the "
                f"features, is {self.longest}: {remedy}choose features with a shorter look-back, or bring more bars"
                f"{self.advice}"
            )
        for part in PARTS:
            longest = int(segments[part][:, 1].max(initial=0))
            if longest < span:
                fitting = self.fitting_window()
                remedy = f"data.window_size={fitting} leaves windows for all parts; or " if fitting else ""
                if recipe.horizon and not fitting:
                    remedy = "choose a smaller predictor.horizon, or "
                raise DataError(
                    f"data.split leaves no windows for {part}: its longest run has {longest} bars, after the "
                    f"{self.gap} that are dropped between parts, and {asked}; {remedy}give {part} a "
                    f"larger part in data.split, or bring more bars{self.advice}"
                )

    def fitting_window(self) -> int:
        """Find a smaller window that the last table has in all parts, with about as many windows as bars, or 0."""
        rows, recipe, dropped = self.table.rows, self.recipe, self.gap - (self.recipe.window_size - 1)

        def shortest_part(T: int) -> int:
            usable = rows.usable(min(recipe.max_masked, T - 1))
            segments = rows.segments(usable, self.intervals, T - 1 + dropped)
            return min(int(segments[part][:, 1].max(initial=0)) for part in PARTS) - recipe.horizon

        for needed in (lambda T: 2 * T - 1, lambda T: T):
            fits, beyond = 0, recipe.window_size
            while beyond - fits > 1:
                middle = (fits + beyond) // 2
                fits, beyond = (middle, beyond) if shortest_part(middle) >= needed(middle) else (fits, middle)
            if fits > 1:
                return fits
        return 0

    def _tensor(self, spool: Spool, needed: bool) -> torch.Tensor | None:
        """Return the array of a spool, or discard it if it is not needed."""
        if needed:
            return torch.from_numpy(spool.array())
        spool.discard()
        return None

    def _lost(self, findings: pl.DataFrame) -> dict[str, Any]:
        """Return how many windows were lost to holes and to masked bars, and to which policies."""
        acting = findings.filter((pl.col("check") == "gap") | pl.col("policy").is_in(["mask", "drop"]))
        return {**self.lost, "policies": dict(acting.select("check", "policy").unique(maintain_order=True).iter_rows())}

    def _sessions(self) -> str:
        """Say what becomes of the first bars of sessions, if there are sessions."""
        timetables = self.recipe.checks.timetables or NOTHING
        if not any(one.intraday and not one.always for one in timetables.kinds):
            return ""
        meaning = {
            "keep": "are kept: their returns span the night",
            "mask": "are masked where a feature spans the night, and windows run on over them",
            "break": "begin a new series: no window crosses a night",
        }[self.recipe.overnight]
        return f"first bars of sessions {meaning} (data.overnight={self.recipe.overnight})\n"

    def _summary(self, findings: pl.DataFrame) -> str:
        layout = "one series each" if self.recipe.layout == "per_asset" else "side by side in one series"
        calendar = self.table.checked.calendar
        return (
            f"{self.bars:,} bars of {self.assets} asset{'s' * (self.assets != 1)}, {layout}, "
            f"{moment_in_words(calendar[0])} to {moment_in_words(calendar[-1])}\n"
            f"features: {', '.join(self.recipe.features)}\n"
            f"{'; '.join(f'bars {words}' for words in self.recipe.checks.intervals())}\n"
            f"{self._sessions()}"
            f"checks: {describe_findings(findings)}\n"
            f"windows lost {lost_in_words(self._lost(findings))}\n"
            f"{timeline(self.intervals, calendar, self.gap)}"
        )
