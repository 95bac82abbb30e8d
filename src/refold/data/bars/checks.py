"""What is wrong with bars, found, counted and dealt with before anything is computed from them.

Each check says of each bar whether it is at fault, from that bar and earlier ones alone: a check that looked ahead
would let the future decide which bars of the past may be trained on. What happens to a faulty bar is the policy of the
check:

    error   stop, with a message that names the first such bar
    warn    count it in the table and leave it as it is
    mask    keep its place, without values: models and scores pass over it, and so over features that look back on it
    drop    take it out: the series is broken there, and neither windows nor look-backs cross the break

Nothing is repaired. Sources: Brownlees and Gallo 2006 and Barndorff-Nielsen et al. 2009 for what goes wrong in price
feeds.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, more_than
from refold.data.bars.calendar import moments, not_session
from refold.data.bars.table import OHLCV, PRICES
from refold.errors import DataError

Policy = Literal["error", "warn", "mask", "drop"]

# a:b splits that exchanges see, as new shares per old one; each also the other way round
SPLIT_RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0)
# price in cents, pence or thousands instead of units
UNIT_RATIOS = (100.0, 1000.0)
EVERY_ROW = pl.lit(True)
# log ratio to the last close from which on an asset counts among those that moved: a quarter of the smallest split
_MOVE = 0.1


class Check(NamedTuple):
    """What a check says of a faulty bar, and the policies that make sense for it."""

    complaint: str
    policies: tuple[Policy, ...] = get_args(Policy)


CHECKS = {
    "missing_timestamp": Check("a bar must have a date and an asset", ("error", "drop")),
    "out_of_order": Check("its bars must rise in time", ("error", "warn")),
    "duplicate": Check("an asset has one bar at a time"),
    "missing_value": Check("a bar must have all values of the table"),
    "not_finite": Check("a value must be a finite number"),
    "non_positive": Check("prices must be above 0 and volumes at least 0"),
    "broken_bar": Check("low must be at most, and high at least, open and close"),
    "stale_run": Check("the close has not moved for data.checks.stale_bars bars"),
    "split_like": Check("the price jumps by the ratio of a split; adjust it, or let it pass"),
    "unit_like": Check("the price jumps by a factor of 100 or 1000, as when the unit changes"),
    "off_session": Check("the exchange of data.checks.calendar was closed"),
    "gap": Check("the calendar expects a bar that is not there", ("error", "warn", "mask")),
    "feature_not_finite": Check("a feature must be a finite number", ("error", "mask", "drop")),
}


@dataclass(frozen=True)
class Checked:
    """Bars that passed.

    bars: sorted by asset, then time; `asset` is an Enum; masked bars have null values. calendar: sorted unique
    timestamps. moment: (N,) position of each bar on the calendar. table: one row per check and asset that found
    something: check, policy, asset, bars (count), first (timestamp of the first).
    """

    bars: pl.DataFrame
    calendar: pl.Series
    moment: np.ndarray
    table: pl.DataFrame


class Checks:
    """The checks and their policies.

    Args: policies: check -> policy. calendar: "union" expects a bar wherever any asset has one, a market identifier
        code such as XNYS one in each session of that exchange, None expects nothing. stale_bars: equal closes in a row
        that are too many. split_tolerance: how far the log of a price ratio may be from that of a split.
    """

    @checked("data.checks")
    def __init__(
        self,
        *,
        policies: Mapping[str, Policy],
        calendar: str | None,
        stale_bars: Annotated[int, at_least(2)],
        split_tolerance: Annotated[float, more_than(0)],
    ) -> None:
        for name, policy in policies.items():
            if name not in CHECKS:
                near = difflib.get_close_matches(name, CHECKS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CHECKS)}"
                raise ValueError(f"data.checks.policies has {name!r}; {hint}")
            if policy not in CHECKS[name].policies:
                allowed = ", ".join(CHECKS[name].policies)
                raise ValueError(f"data.checks.policies.{name} is {policy!r}; it must be one of {allowed}")
        lacking = [name for name in CHECKS if name not in policies]
        if lacking:
            raise ValueError(f"data.checks.policies lacks {', '.join(lacking)}")
        self.policies = dict(policies)
        self.calendar = calendar
        self.stale_bars = stale_bars
        self.split_tolerance = split_tolerance

    def run(self, bars: pl.DataFrame, market: pl.DataFrame | None = None, counted: pl.Expr = EVERY_ROW) -> Checked:
        """Check, then apply the policies.

        Args: bars: canonical; other columns travel along. market: `survey` of the whole table, where the bars are a
            piece of it; None: of the bars. counted: of other columns, which rows the findings are about; the others are
            there to be looked back on.
        Raises: DataError: a check whose policy is error found something.
        """
        findings = _Findings(self.policies, counted)
        bars = _in_order(self._arrived(bars, findings))
        market = survey(bars) if market is None else market
        exchange = None if self.calendar in (None, "union") else self.calendar
        calendar, open_days = moments(market["timestamp"], exchange)
        bars = self._apply(bars, self._faults(bars.columns, market) | {"off_session": not_session(open_days)}, findings)
        moment = _positions(calendar, bars["timestamp"])
        if self.calendar is not None and bars.height:
            bars, moment = self._gaps(bars, moment, calendar, findings)
        return Checked(bars, calendar, moment, findings.table())

    def arrive(self, bars: pl.DataFrame, last: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """The checks that ask in which order a table comes, of its next rows; `run` does them too.

        Args: bars: canonical. last: timestamp and asset of the last bar of each asset before them.
        Returns: bars without those that a policy drops, `last` brought up to date, and what was found.
        Raises: DataError: a check whose policy is error found something.
        """
        findings = _Findings(self.policies, ~pl.col("known"))
        rows = [last.with_columns(known=True), bars.with_columns(known=False)]
        arrived = self._arrived(pl.concat(rows, how="diagonal"), findings)
        arrived = arrived.with_columns(pl.col("asset").cast(pl.String))
        last = arrived.select("timestamp", "asset").unique("asset", keep="last", maintain_order=True)
        return arrived.filter(~pl.col("known")).select(bars.columns), last, findings.table()

    def _arrived(self, bars: pl.DataFrame, findings: "_Findings") -> pl.DataFrame:
        """Bars with a date and an asset, which is an Enum, in the order in which they came."""
        missing = pl.any_horizontal(pl.col("timestamp", "asset").is_null())
        bars = self._apply(bars, {"missing_timestamp": missing}, findings)
        bars = bars.with_columns(pl.col("asset").cast(pl.Enum(bars["asset"].unique().sort())))
        earlier = pl.col("timestamp").shift(1).over("asset")  # of its own rows: assets may take turns in the table
        return self._apply(bars, {"out_of_order": pl.col("timestamp") < earlier}, findings)

    def _faults(self, columns: list[str], market: pl.DataFrame) -> dict[str, pl.Expr]:
        """Check -> whether a bar of a sorted table is at fault. Args: market: see `survey`."""
        values = [pl.col(name) for name in OHLCV if name in columns]
        prices = [pl.col(name) for name in PRICES if name in columns]
        nothing = pl.lit(False)
        negative = pl.col("volume") < 0 if "volume" in columns else nothing
        body = [name for name in ("open", "close") if name in columns]
        broken = [pl.col("low") > pl.min_horizontal(*body, "high")] if "low" in columns and "high" in columns else []
        broken += [pl.col("high") < pl.max_horizontal(*body, "low")] if broken else []
        jump = overnight_jump(columns)
        return {
            # a second bar of the same moment is at fault, not the first: drop keeps the one that came first
            "duplicate": _same_asset() & (pl.col("timestamp") == pl.col("timestamp").shift(1)),
            "missing_value": pl.any_horizontal(value.is_null() for value in values),
            "not_finite": pl.any_horizontal(~value.is_finite() for value in values),
            "non_positive": pl.any_horizontal(*(price <= 0 for price in prices), negative),
            "broken_bar": pl.any_horizontal(broken) if broken else nothing,
            "stale_run": _equal_before("close") >= self.stale_bars - 1 if "close" in columns else nothing,
            "split_like": _near(jump, SPLIT_RATIOS, self.split_tolerance)
            & calm_trade(columns)
            & quiet_peers(jump, market),
            "unit_like": _near(jump, UNIT_RATIOS, self.split_tolerance),
        }

    def _apply(self, bars: pl.DataFrame, faults: dict[str, pl.Expr], findings: "_Findings") -> pl.DataFrame:
        """Count faults, stop at those that are errors, then mask and drop."""
        flags = bars.select(fault.fill_null(False).alias(name) for name, fault in faults.items())
        flags = flags if flags.height == bars.height else pl.concat([flags] * bars.height)  # literals give one row
        for name in faults:
            if flags[name].any():
                findings.add(name, bars.filter(flags[name]))
        masked = [name for name in faults if self.policies[name] == "mask" and flags[name].any()]
        if masked:
            absent = flags.select(pl.any_horizontal(masked)).to_series()
            values = [pl.col(name) for name in OHLCV if name in bars.columns]
            bars = bars.with_columns(
                pl.when(absent).then(None).otherwise(value).alias(value.meta.output_name()) for value in values
            )
        dropped = [name for name in faults if self.policies[name] == "drop" and flags[name].any()]
        return bars.filter(~flags.select(pl.any_horizontal(dropped)).to_series()) if dropped else bars

    def _gaps(
        self, bars: pl.DataFrame, moment: np.ndarray, calendar: pl.Series, findings: "_Findings"
    ) -> tuple[pl.DataFrame, np.ndarray]:
        """Count moments without a bar between an asset's first and last; under mask, give them a bar without values."""
        codes = bars["asset"].to_physical().to_numpy()
        skipped = np.diff(moment, prepend=moment[0]) - 1
        skipped[1:][codes[1:] != codes[:-1]] = 0
        after = np.flatnonzero(skipped > 0)
        if not len(after):
            return bars, moment
        counts = skipped[after]
        # each hole, written out: the positions between the bar before it and the bar after it
        holes = np.repeat(moment[after] - counts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        absent = bars.drop("timestamp", *OHLCV, strict=False)[np.repeat(after, counts)]  # as the bar after the hole
        absent = absent.with_columns(calendar.gather(holes).alias("timestamp"))
        findings.add("gap", absent)
        if self.policies["gap"] != "mask":
            return bars, moment
        bars = pl.concat([bars, absent.select("asset", "timestamp")], how="diagonal").sort(
            "asset", "timestamp", maintain_order=True
        )
        return bars, _positions(calendar, bars["timestamp"])

    def features(
        self, rows: pl.DataFrame, wrong: pl.Series, names: list[str], counted: pl.Expr = EVERY_ROW
    ) -> pl.DataFrame:
        """Findings of features that are not finite where bars and look-back are there. Raises: DataError."""
        findings = _Findings(self.policies, counted)
        found = rows.filter(wrong)
        if found.height and self.policies["feature_not_finite"] == "error":
            row = found.row(0, named=True)
            name = next(name for name in names if row[name] is None or not math.isfinite(row[name]))
            raise DataError(
                f"{_place(row)}: {name} of data.features is {row[name]} ({found.height} such bars); "
                f"{CHECKS['feature_not_finite'].complaint}. Is there no volume, or no movement, in its look-back? "
                f"data.checks.policies.feature_not_finite is error; it can be mask, drop"
            )
        if found.height:
            findings.add("feature_not_finite", found)
        return findings.table()


def survey(bars: pl.DataFrame, skip: int = 0) -> pl.DataFrame:
    """What the market did at each moment: timestamp, assets (with a bar), up and down (assets that jumped by 10 %).

    Of pieces of a table, the surveys add up, where each knows the bar before its own first one of an asset.

    Args: bars: canonical. skip: rows at the beginning, of bars in order, that are only looked back on.
    """
    bars = _in_order(bars.filter(pl.all_horizontal(pl.col("timestamp", "asset").is_not_null())))
    jumps = bars.select("timestamp", overnight_jump(bars.columns).alias("jump"))
    moved = {"up": pl.col("jump") >= _MOVE, "down": pl.col("jump") <= -_MOVE}
    counts = (
        jumps[skip:]
        .group_by("timestamp")
        .agg(
            pl.len().cast(pl.Int64).alias("assets"),
            *(flag.sum().cast(pl.Int64).alias(way) for way, flag in moved.items()),
        )
    )
    return counts.sort("timestamp")


def add_surveys(surveys: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The survey of a table from those of its pieces. Raises: DataError: their timestamps are of different kinds."""
    total: pl.DataFrame | None = None
    for survey in surveys:
        if total is not None:
            refuse_two_kinds(total, survey)
        both = survey if total is None else pl.concat([total, survey])
        total = both.group_by("timestamp").sum()
    return total.sort("timestamp")


def refuse_two_kinds(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Raise a DataError if the timestamps of two pieces of a table are of different kinds."""
    kinds = one.schema["timestamp"], other.schema["timestamp"]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"the timestamps of the table are of two kinds, {kinds[0]} and {kinds[1]}; see data.source.table"
        )


def merge(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Findings of pieces as one table, in the order of the checks."""
    rank = pl.col("check").replace_strict({name: number for number, name in enumerate(CHECKS)})
    found = pl.concat(tables).group_by("check", "policy", "asset", maintain_order=True)
    return found.agg(pl.col("bars").sum(), pl.col("first").first()).sort(rank, maintain_order=True)


def unbroken(asset: np.ndarray, moment: np.ndarray, *, holes_break: bool) -> np.ndarray:
    """(N,) number of the unbroken run that each bar is in, rising.

    A run ends with the asset and, if holes break it, where a moment of the calendar is missing or comes twice.
    """
    changed = np.diff(asset, prepend=asset[:1] - 1) != 0
    step = np.diff(moment, prepend=moment[:1] - 1)
    return np.cumsum(changed | (step != 1 if holes_break else step < 1))


def _place(row: dict[str, Any]) -> str:
    return f"{row['asset']} {row['timestamp']}"


def _short(value: float | None) -> str:
    return "empty" if value is None else f"{value:g}"


def _same_asset() -> pl.Expr:
    return pl.col("asset") == pl.col("asset").shift(1)


def is_sorted(bars: pl.DataFrame) -> bool:
    """Whether bars are sorted by asset, then time."""
    asset, time = pl.col("asset"), pl.col("timestamp")
    later = (asset == asset.shift(1)) & (time >= time.shift(1))
    return bars.select(((asset > asset.shift(1)) | later).fill_null(True).all()).item()


def _in_order(bars: pl.DataFrame) -> pl.DataFrame:
    """Sorted by asset, then time, unless they are: looking is several times cheaper than sorting."""
    return bars if is_sorted(bars) else bars.sort("asset", "timestamp", maintain_order=True)


def _positions(calendar: pl.Series, timestamps: pl.Series) -> np.ndarray:
    return calendar.search_sorted(timestamps).to_numpy().astype(np.int64)


def overnight_jump(columns: list[str]) -> pl.Expr:
    """Log ratio to the last close of the open, where there is one: a split shows overnight, a crash takes the day."""
    if "close" not in columns:
        return pl.lit(None, pl.Float64)
    price = pl.col("open" if "open" in columns else "close")
    return pl.when(_same_asset()).then((price / pl.col("close").shift(1)).log())


def _near(log_ratio: pl.Expr, ratios: tuple[float, ...], tolerance: float) -> pl.Expr:
    return pl.any_horizontal((log_ratio.abs() - math.log(ratio)).abs() < tolerance for ratio in ratios)


def calm_trade(columns: list[str]) -> pl.Expr:
    """Price x volume is less than four times that of the bar before: a split leaves it, a crash does not."""
    if not {"close", "volume"} <= set(columns):
        return pl.lit(True)
    traded = pl.col("close") * pl.col("volume")
    return traded < 4 * traded.shift(1)


def quiet_peers(jump: pl.Expr, market: pl.DataFrame) -> pl.Expr:
    """Not more than half of the other assets with a bar at that moment jump the same way: a split moves one asset."""
    others = pl.col("assets") - 1  # a bar that jumps like a split is itself among those that moved
    loud = {way: market.filter(2 * (pl.col(way) - 1) > others)["timestamp"].implode() for way in ("up", "down")}
    moment = pl.col("timestamp")
    return ~pl.when(jump > 0).then(moment.is_in(loud["up"])).otherwise(moment.is_in(loud["down"]))


def _equal_before(column: str) -> pl.Expr:
    """How many bars right before this one, of the same asset, have the same value."""
    row = pl.int_range(pl.len())
    moved = (~_same_asset() | (pl.col(column) != pl.col(column).shift(1))).fill_null(True)
    return row - pl.when(moved).then(row).forward_fill()


FINDINGS = {"check": pl.String, "policy": pl.String, "asset": pl.String, "bars": pl.Int64, "first": pl.String}


class _Findings:
    """Faults as they are found. Args: policies: check -> policy. counted: the rows that count; see `Checks.run`."""

    def __init__(self, policies: Mapping[str, Policy], counted: pl.Expr) -> None:
        self.policies = policies
        self.counted = counted
        self.tables = [pl.DataFrame(schema=FINDINGS)]

    def add(self, name: str, found: pl.DataFrame) -> None:
        """Count faulty bars; raise a DataError instead if the policy is error."""
        if self.policies[name] == "error":
            row = found.row(0, named=True)
            values = ", ".join(f"{key} {_short(row[key])}" for key in OHLCV if key in row)
            values = "" if name == "gap" else f"; it has {values}"
            more = f" ({found.height} such bars)" if found.height > 1 else ""
            others = ", ".join(policy for policy in CHECKS[name].policies if policy != "error")
            raise DataError(
                f"{_place(row)}: {CHECKS[name].complaint}{values}{more}. "
                f"data.checks.policies.{name} is error; it can be {others}"
            )
        counts = (
            found.filter(self.counted)
            .group_by("asset", maintain_order=True)
            .agg(pl.len().cast(pl.Int64).alias("bars"), pl.col("timestamp").first().cast(pl.String).alias("first"))
        )
        self.tables.append(
            counts.select(
                pl.lit(name).alias("check"),
                pl.lit(self.policies[name]).alias("policy"),
                pl.col("asset").cast(pl.String),
                "bars",
                "first",
            )
        )

    def table(self) -> pl.DataFrame:
        """One row per check and asset that found something."""
        return pl.concat(self.tables)


def summary(table: pl.DataFrame) -> str:
    """The findings in a line per check: counts by asset, most first."""
    lines = []
    for (check, policy), found in table.group_by("check", "policy", maintain_order=True):
        worst = found.sort("bars", descending=True).head(4)
        counts = ", ".join(f"{row['asset']} {row['bars']} (from {row['first']})" for row in worst.iter_rows(named=True))
        others = f" and {found.height - 4} more assets" if found.height > 4 else ""
        lines.append(f"{check} ({policy}): {counts}{others}")
    return "\n".join(lines) or "nothing found"
