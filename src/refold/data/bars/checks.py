"""Find, count and deal with what is wrong with bars, before anything is computed from them.

Each check judges a bar from that bar and earlier ones alone: a check that looked ahead would let the future decide
which bars of the past may be trained on. The policy of a check decides what happens to a faulty bar:

    error   stop, with a message that names the first such bar
    warn    count it in the table and leave it as it is
    mask    keep its place, without values: models and scores pass over it, and so over features that look back on it
    drop    take it out: the series is broken there, and neither windows nor look-backs cross the break

Nothing is repaired. Sources: Brownlees and Gallo 2006 and Barndorff-Nielsen et al. 2009 for what goes wrong in price
feeds.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, more_than
from refold.data.bars.calendar import WEEKS, moments, not_session
from refold.data.bars.expected import (
    NOTHING,
    Timetables,
    find_timetables,
    long_steps,
    mark_changed,
    mark_off_grid,
    read_holes,
    with_expected,
)
from refold.data.bars.faults import faults_of_values
from refold.data.bars.findings import CHECKS, EVERY_ROW, FINDINGS, ROW, Findings, Policy, place, refuse_policies
from refold.data.bars.gaps import Gaps, find_gaps
from refold.data.bars.intervals import parse_interval
from refold.data.bars.market import goes_on, in_order, is_sorted, survey
from refold.data.bars.table import OWN, TableKind, value_columns
from refold.errors import DataError

_KNOWN = f"{OWN}known"
"""Column that is true for the last bars of the rows before, while a table is read some rows at a time."""


@dataclass(frozen=True)
class Checked:
    """Hold bars that passed the checks.

    Args:
        bars: sorted by asset, then time; `asset` is an Enum; masked bars have null values.
        calendar: sorted unique timestamps.
        occurs: (M,) bool, False for moments at which a bar is expected and no asset has one; the split counts the
            others alone.
        moment: (N,) int64, position of each bar on the calendar.
        hole: (N,) bool, whether bars are missing right before the bar.
        closing: (N,) bool, whether the market closed right before the bar, as it does every day.
        table: findings, one row per check and asset; see `refold.data.bars.findings.FINDINGS`.
        runs: tables of the runs of faulty bars, if the bars came with the column `ROW`.
    """

    bars: pl.DataFrame
    calendar: pl.Series
    occurs: np.ndarray
    moment: np.ndarray
    hole: np.ndarray
    closing: np.ndarray
    table: pl.DataFrame
    runs: list[pl.DataFrame]


class Checks:
    """Check bars and apply a policy to each kind of fault.

    Args:
        policies: check -> policy, for all of `refold.data.bars.findings.CHECKS`.
        scoring_policies: check -> policy that takes the place of error when a finished run scores; see `when_scoring`.
        interval: None infers each asset's interval and hours, and expects bars accordingly; "5m", "1h", "1d" and the
            like hold all bars to it; "none" expects no bar beside those of other assets.
        calendar: "union" expects a bar wherever any asset with the same timetable has one, and infers days and hours;
            a market identifier code such as XNYS expects bars in each session of that exchange; "24x7" always,
            "weekdays" from Monday to Friday; None expects nothing.
        stale_bars: number of equal closes in a row that is too many, at least 2.
        split_tolerance: how far the log of a price ratio may be from that of a split, above 0.
        kind: "prices", or "series" of any numbers, to which the checks of prices do not apply.

    Raises:
        ValueError: a check or a policy is unknown, a check lacks a policy, or a number is out of bounds.
    """

    @checked("data.checks")
    def __init__(
        self,
        *,
        policies: Mapping[str, Policy],
        scoring_policies: Mapping[str, Policy],
        interval: str | None,
        calendar: str | None,
        stale_bars: Annotated[int, at_least(2)],
        split_tolerance: Annotated[float, more_than(0)],
        kind: TableKind,
    ) -> None:
        for key, chosen in (("policies", policies), ("scoring_policies", scoring_policies)):
            refuse_policies(key, chosen)
        lacking = [name for name in CHECKS if name not in policies]
        if lacking:
            raise ValueError(f"data.checks.policies lacks {', '.join(lacking)}")
        if interval not in (None, "none"):
            parse_interval(interval)
        self.policies = dict(policies)
        self.scoring_policies = dict(scoring_policies)
        self.interval = interval
        self.calendar = calendar
        self.stale_bars = stale_bars
        self.split_tolerance = split_tolerance
        self.kind: TableKind = kind
        self.timetables: Timetables | None = None

    def knowing(self, timetables: Timetables | None) -> "Checks":
        """Copy the checks for a table whose timetables are known.

        Args:
            timetables: of its assets; None infers them from the bars.
        """
        other = copy(self)
        other.timetables = timetables
        return other

    def intervals(self) -> list[str]:
        """Describe the known timetables, a line for assets with the same one."""
        lines = [] if self.timetables is None else self.timetables.describe()
        return lines or ["at no known interval (data.checks.interval is none)"]

    @property
    def exchange(self) -> str | None:
        """The exchange of the calendar, if it names one."""
        return None if self.calendar in (None, "union", *WEEKS) else self.calendar

    def timetables_of(self, bars: pl.LazyFrame, assets: int) -> Timetables:
        """Return the timetables that the bars of a table are held to: those that are known, or else inferred ones.

        Args:
            bars: canonical, sorted by asset, then time; every bar has both.
            assets: number of assets.
        """
        if self.timetables is not None:
            return self.timetables
        if self.interval == "none":
            return NOTHING
        week = self.calendar if self.calendar in WEEKS else None
        return find_timetables(bars, assets, self.interval, week)

    def compare(self, timetables: Timetables, assets: Mapping[str, int]) -> pl.DataFrame:
        """Compare the intervals of the assets of a table.

        Args:
            timetables: of the assets.
            assets: name -> number of bars.

        Returns:
            A finding for each asset that has another interval than most.

        Raises:
            DataError: there is one, and the policy of mixed_interval is error.
        """
        found = pl.DataFrame(schema=FINDINGS)
        intervals: dict[str, list[str]] = {}
        for asset in assets:
            timetable = timetables.find(asset)
            if timetable is not None:
                intervals.setdefault(timetable.interval, []).append(asset)
        if len(intervals) < 2:
            return found
        if self.policies["mixed_interval"] == "error":
            each = ", ".join(
                f"{interval} ({', '.join(names[:4])}{' and more' * (len(names) > 4)})"
                for interval, names in intervals.items()
            )
            raise DataError(
                f"the assets have bars of different intervals, {each}: choose those of one with "
                f"data.source.table.assets. data.checks.policies.mixed_interval is error; it can be warn"
            )
        most = max(intervals.values(), key=len)
        rows = [
            ("mixed_interval", "warn", asset, assets[asset], None)
            for names in intervals.values()
            if names is not most
            for asset in names
        ]
        return pl.DataFrame(rows, schema=FINDINGS, orient="row")

    def survey(self, bars: pl.DataFrame, timetables: Timetables) -> pl.DataFrame:
        """Return what all assets did at each moment, with the moments at which a bar is missing; see `market.survey`.

        Args:
            bars: canonical, sorted by asset, then time.
            timetables: of the assets.
        """
        market = survey(bars, timetables.apart)
        assets = bars["asset"].unique().cast(pl.String).to_list()
        return with_expected(market, self.expected(bars.lazy(), timetables, assets, market["timestamp"]))

    def expected(
        self, bars: pl.LazyFrame, timetables: Timetables, assets: Iterable[str], moments_there: pl.Series
    ) -> pl.Series:
        """List the times at which a bar of some asset is missing according to its timetable.

        Args:
            bars: canonical, sorted by asset, then time.
            timetables: of the assets.
            assets: of the bars.
            moments_there: times of the bars, for the days of the exchange.
        """
        steps = long_steps(bars, timetables, assets).collect(engine="streaming")
        if self.calendar is None or not steps.height:
            return steps["timestamp"].clear()
        return read_holes(steps, timetables, self._open_days(moments_there))[1]["timestamp"]

    def _open_days(self, times: pl.Series) -> pl.Series | None:
        """Return the days on which the exchange traded in a stretch of times."""
        return moments(times, self.exchange)[1]

    def when_scoring(self, kept: Collection[str] = ()) -> "Checks":
        """Return checks that flag faulty bars where these would stop, as a finished run needs them to score bars.

        Args:
            kept: checks whose policy stays even if it is error.
        """
        scoring = copy(self)
        scoring.policies = {
            name: self.scoring_policies.get(name, policy) if policy == "error" and name not in kept else policy
            for name, policy in self.policies.items()
        }
        return scoring

    def run(self, bars: pl.DataFrame, market: pl.DataFrame | None = None, counted: pl.Expr = EVERY_ROW) -> Checked:
        """Check bars, then apply the policies.

        Args:
            bars: canonical table. Columns of other names are kept.
            market: `refold.data.bars.market.survey` of the whole table, if the bars are a piece of one; None surveys
                the bars.
            counted: boolean expression that selects the rows that the findings are about; the others are only looked
                back on.

        Returns:
            The sorted bars, their calendar and the findings.

        Raises:
            DataError: a check whose policy is error found something.
        """
        findings = Findings(self.policies, counted, self.kind)
        bars = in_order(self._drop_nameless(bars, findings))
        timetables = self.timetables_of(bars.lazy(), bars["asset"].n_unique())
        market = self.survey(bars, timetables) if market is None else market
        calendar, open_days = moments(market["timestamp"], self.exchange)
        faults = faults_of_values(bars.columns, market, self.kind, self.stale_bars, self.split_tolerance)
        faults |= {"off_session": not_session(open_days, self.calendar)}
        if timetables.kinds:
            faults |= _against(bars, timetables, open_days)
        bars = self._apply(bars, faults, findings)
        expects = self.calendar is not None
        moment = _positions(calendar, bars["timestamp"])
        gaps = find_gaps(bars, moment, calendar, market, timetables, open_days, expects=expects)
        hole, closing = gaps.hole, gaps.closing
        if expects and gaps.absent.height:
            bars, hole, closing = self._fill_gaps(bars, gaps, findings)
            moment = _positions(calendar, bars["timestamp"])
        occurs = np.ones(len(calendar), dtype=bool)
        occurs[_positions(calendar, market.filter(pl.col("assets") == 0)["timestamp"])] = False
        return Checked(bars, calendar, occurs, moment, hole, closing, findings.table(), findings.runs)

    def arrive(
        self, bars: pl.DataFrame, last: pl.DataFrame, first_row: int = 0
    ) -> tuple[pl.DataFrame, pl.DataFrame, Findings]:
        """Make the checks of a table's order on its next rows; `run` makes the same checks.

        Args:
            bars: canonical table of the next rows.
            last: timestamp and asset of the last bar of each asset before them.
            first_row: number of rows before them.

        Returns:
            The bars without those that a policy drops, `last` brought up to date, and the findings. Faulty bars that
            come one after the other among those of their asset are one run.

        Raises:
            DataError: a check whose policy is error found something.
        """
        findings = Findings(self.policies, ~pl.col(_KNOWN), self.kind)
        if goes_on(bars, last):  # the usual rows: nothing to find, and most of the time saved
            named = bars.with_columns(pl.col("asset").cast(pl.String))
            ends = pl.concat([last.with_columns(pl.col("asset").cast(pl.String)), named.select("timestamp", "asset")])
            return named, ends.unique("asset", keep="last", maintain_order=True), findings
        rows = [last.with_columns(pl.lit(True).alias(_KNOWN)), bars.with_columns(pl.lit(False).alias(_KNOWN))]
        row = (first_row + pl.int_range(pl.len()).over("asset")).alias(ROW)
        arrived = self._drop_nameless(pl.concat(rows, how="diagonal").with_columns(row), findings)
        arrived = arrived.with_columns(pl.col("asset").cast(pl.String))
        last = arrived.select("timestamp", "asset").unique("asset", keep="last", maintain_order=True)
        return arrived.filter(~pl.col(_KNOWN)).select(bars.columns), last, findings

    def features(self, rows: pl.DataFrame, wrong: pl.Series, names: Sequence[str], findings: Findings) -> None:
        """Find the features that are not finite although their bars and look-back are there.

        Args:
            rows: (N rows) bars and their features.
            wrong: (N,) bool, True where a feature is there and not finite.
            names: columns of the features.
            findings: get the rows.

        Raises:
            DataError: the policy of feature_not_finite is error and there is such a row.
        """
        found = rows.filter(wrong)
        if found.height and self.policies["feature_not_finite"] == "error":
            row = found.row(0, named=True)
            name = next(name for name in names if row[name] is None or not math.isfinite(row[name]))
            raise DataError(
                f"{place(row)}: {name} of data.features is {row[name]} ({found.height} such bars); "
                f"{CHECKS['feature_not_finite'].complaint}. Is there no volume, or no movement, in its look-back? "
                f"data.checks.policies.feature_not_finite is error; it can be mask, drop"
            )
        if found.height:
            findings.add("feature_not_finite", found)

    def _drop_nameless(self, bars: pl.DataFrame, findings: Findings) -> pl.DataFrame:
        """Drop bars without a date or an asset, make the asset an Enum, and report bars that go back in time."""
        missing = pl.any_horizontal(pl.col("timestamp", "asset").is_null())
        bars = self._apply(bars, {"missing_timestamp": missing}, findings)
        bars = bars.with_columns(pl.col("asset").cast(pl.Enum(bars["asset"].unique().sort())))
        if is_sorted(bars):
            return bars
        earlier = pl.col("timestamp").shift(1).over("asset")  # of its own rows: assets may take turns in the table
        return self._apply(bars, {"out_of_order": pl.col("timestamp") < earlier}, findings)

    def _apply(self, bars: pl.DataFrame, faults: Mapping[str, pl.Expr], findings: Findings) -> pl.DataFrame:
        """Count faults, stop at those that are errors, then mask and drop."""
        flags = bars.select(fault.fill_null(False).alias(name) for name, fault in faults.items())
        flags = flags if flags.height == bars.height else pl.concat([flags] * bars.height)  # literals give one row
        found = [name for name in faults if flags[name].any()]
        for name in found:
            findings.add(name, bars.filter(flags[name]))
        masked = [name for name in found if self.policies[name] == "mask"]
        if masked:
            absent = flags.select(pl.any_horizontal(masked)).to_series()
            values = value_columns(bars.columns, self.kind)
            bars = bars.with_columns(pl.when(absent).then(None).otherwise(pl.col(name)).alias(name) for name in values)
        dropped = [name for name in found if self.policies[name] == "drop"]
        return bars.filter(~flags.select(pl.any_horizontal(dropped)).to_series()) if dropped else bars

    def _fill_gaps(
        self, bars: pl.DataFrame, gaps: Gaps, findings: Findings
    ) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
        """Count the missing bars; under mask, give them a bar without values. Return bars, holes and closings."""
        empty = bars.drop("timestamp", *value_columns(bars.columns, self.kind))
        absent = empty[gaps.absent["row"]]  # as the bar after the hole
        absent = absent.with_columns(gaps.absent["timestamp"])
        findings.add("gap", absent)
        if self.policies["gap"] != "mask":
            return bars, gaps.hole, gaps.closing
        marked = bars.with_columns(pl.Series("closing", gaps.closing))
        marked = pl.concat([marked, absent.select("asset", "timestamp")], how="diagonal").sort(
            "asset", "timestamp", maintain_order=True
        )
        closing = marked["closing"].fill_null(False).to_numpy()
        return marked.drop("closing"), np.zeros(marked.height, dtype=bool), closing


def _against(bars: pl.DataFrame, timetables: Timetables, open_days: pl.Series | None) -> dict[str, pl.Expr]:
    """Return check -> expression that is true where a sorted table does not keep to its timetables."""
    assets = bars["asset"].unique().cast(pl.String).to_list()
    steps = read_holes(long_steps(bars.lazy(), timetables, assets).collect(), timetables, open_days)[0]
    changed = mark_changed(bars, steps.filter(pl.col("missing") > 0), timetables)
    return {"off_grid": pl.lit(mark_off_grid(bars, timetables)), "mixed_interval": pl.lit(changed)}


def unbroken(asset: np.ndarray, moment: np.ndarray, hole: np.ndarray | None) -> np.ndarray:
    """Number the unbroken runs of bars.

    Args:
        asset: (N,) int, number of each bar's asset; bars are sorted by asset, then time.
        moment: (N,) int, position of each bar on the calendar.
        hole: (N,) bool, True where bars are missing right before the bar; None ends runs only where a moment comes
            twice.

    Returns:
        (N,) int, number of the run that each bar is in, rising. A run ends with the asset in any case.
    """
    changed = np.diff(asset, prepend=asset[:1] - 1) != 0
    step = np.diff(moment, prepend=moment[:1] - 1)
    return np.cumsum(changed | (step < 1) | (False if hole is None else hole))


def _positions(calendar: pl.Series, timestamps: pl.Series) -> np.ndarray:
    return calendar.search_sorted(timestamps).to_numpy().astype(np.int64)
