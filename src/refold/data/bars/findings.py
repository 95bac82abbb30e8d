"""The checks by name, and the table of what they found."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import polars as pl

from refold.data.bars.dates import moment_in_words
from refold.data.bars.table import OWN, TableKind, value_columns
from refold.errors import DataError

Policy = Literal["error", "warn", "mask", "drop"]


class Check(NamedTuple):
    """Describe a kind of fault, and the policies that make sense for it."""

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
    "stale_run": Check("the close, or every value of a series, has not moved for data.checks.stale_bars bars"),
    "split_like": Check("the price jumps by the ratio of a split; adjust it, or let it pass"),
    "unit_like": Check("the price jumps by a factor of 100 or 1000, as when the unit changes"),
    "off_session": Check("the market of data.checks.calendar was closed"),
    "off_grid": Check("its time is not one of those at which the asset's bars come"),
    "mixed_interval": Check(
        "its bars come at another interval than those before, or than data.checks.interval", ("error", "warn")
    ),
    "gap": Check("the calendar expects a bar that is not there", ("error", "warn", "mask")),
    "feature_not_finite": Check("a feature must be a finite number", ("error", "mask", "drop")),
}
"""All checks, in the order in which they are made."""

FINDINGS = {"check": pl.String, "policy": pl.String, "asset": pl.String, "bars": pl.Int64, "first": pl.String}
"""Columns of a table of findings: one row per check and asset, with the number of bars and the time of the first."""

ROW = f"{OWN}row"
"""Column that a table's row numbers travel in while it is checked, sorted and given bars for its holes."""

MOST_RUNS = 20_000
"""Runs of faulty bars that are listed one by one. Of more, neighbouring ones of a check and an asset are joined."""

EVERY_ROW = pl.lit(True)

MOST_VALUES = 8
"""Values of a bar that a message shows."""


class Findings:
    """Collect what checks find, and stop at a check whose policy is error.

    Args:
        policies: check -> policy, for all of `CHECKS`.
        counted: boolean expression over bars that selects the rows to count; the others are only looked back on.
        kind: of the table; values of a series are named in messages under their own names.
    """

    def __init__(self, policies: Mapping[str, Policy], counted: pl.Expr, kind: TableKind = "prices") -> None:
        self.policies = policies
        self.counted = counted
        self.kind: TableKind = kind
        self.tables = [pl.DataFrame(schema=FINDINGS)]
        self.runs: list[pl.DataFrame] = []

    def add(self, name: str, found: pl.DataFrame) -> None:
        """Count the faulty bars of a check per asset, and list their runs if the bars are numbered.

        Args:
            name: the check, one of `CHECKS`.
            found: the faulty bars, at least one; the column `ROW`, if there is one, numbers the rows of their table.

        Raises:
            DataError: the policy of the check is error; the message names the first bar and its values.
        """
        if self.policies[name] == "error":
            row = found.row(0, named=True)
            values = ", ".join(f"{key} {_text_of(row[key])}" for key in value_columns(row, self.kind)[:MOST_VALUES])
            values = "" if name == "gap" else f"; it has {values}"
            more = f" ({found.height} such bars)" if found.height > 1 else ""
            others = ", ".join(policy for policy in CHECKS[name].policies if policy != "error")
            raise DataError(
                f"{place(row)}: {CHECKS[name].complaint}{values}{more}. "
                f"data.checks.policies.{name} is error; it can be {others}"
            )
        found = found.filter(self.counted)
        if ROW in found.columns:
            self.runs.append(_runs(name, self.policies[name], found))
        counts = found.group_by("asset", maintain_order=True).agg(
            pl.len().cast(pl.Int64).alias("bars"), pl.col("timestamp").first().cast(pl.String).alias("first")
        )
        named = counts.with_columns(
            pl.col("asset").cast(pl.String), check=pl.lit(name), policy=pl.lit(self.policies[name])
        )
        self.tables.append(named.select(*FINDINGS))

    def table(self) -> pl.DataFrame:
        """Return all findings so far, in the order in which they were added; its columns are `FINDINGS`."""
        return pl.concat(self.tables)


def _runs(name: str, policy: Policy, found: pl.DataFrame) -> pl.DataFrame:
    """List the runs of neighbouring faulty bars of a check.

    Args:
        name: the check.
        policy: its policy.
        found: the faulty bars; `ROW` numbers the rows of their table, and missing bars have that of the bar after them.

    Returns:
        check, policy, asset, start and end (timestamps), bars, first and last (rows), in the order of the bars.
    """
    row = pl.col(ROW).cast(pl.Int64)
    step = row - row.shift(1)
    apart = pl.col("asset").ne_missing(pl.col("asset").shift(1)) | (step != 0 if name == "gap" else step != 1)
    runs = found.group_by(apart.fill_null(True).cum_sum().alias("run"), maintain_order=True).agg(
        pl.lit(name).alias("check"),
        pl.lit(policy).alias("policy"),
        pl.col("asset").cast(pl.String).first(),
        pl.col("timestamp").min().alias("start"),
        pl.col("timestamp").max().alias("end"),
        pl.len().cast(pl.Int64).alias("bars"),
        row.first().alias("first"),
        row.last().alias("last"),
    )
    return runs.drop("run")


class FaultyRuns:
    """Collect the runs of faulty bars of the pieces of a table; memory does not grow with the number of bars."""

    def __init__(self) -> None:
        self._pieces: list[list[pl.DataFrame]] = []
        self._rows = 0

    def add(self, runs: Iterable[pl.DataFrame], shift: int = 0) -> None:
        """Add the runs of the next piece.

        Args:
            runs: those that the checks of the piece found, as `Findings` lists them.
            shift: the row of the whole table that the piece begins at.
        """
        here = [table.with_columns(pl.col("first", "last") + shift) for table in runs]
        self._pieces.append(here)
        self._rows += sum(table.height for table in here)
        if self._rows > 2 * MOST_RUNS and (known := self.table()) is not None:
            self._pieces, self._rows = [[known]], known.height

    def merge(self, other: "FaultyRuns") -> None:
        """Add the runs of other assets, piece by piece as they were added there."""
        for piece in other._pieces:
            self.add(piece)

    def table(self) -> pl.DataFrame | None:
        """Return all runs: check, policy, asset, start, end, bars, first, last; None if there is none.

        A run that goes on from one piece to the next is one run. Of more than `MOST_RUNS` runs, neighbours of one check
        and one asset are joined, so that `bars` may be less than the bars from start to end.
        """
        tables = [table for piece in self._pieces for table in piece]
        if not tables:
            return None
        one = ["check", "asset"]
        runs = pl.concat(tables).sort(*one, "first", maintain_order=True, nulls_last=True)
        follows = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in one)
        touches = (pl.col("first") == pl.col("last").shift(1) + 1) & (pl.col("check") != "gap")
        runs = _join_runs(runs, (~(follows & touches).fill_null(False)).cum_sum())
        if runs.height > MOST_RUNS:
            several = 1 + runs.height // MOST_RUNS
            runs = _join_runs(runs, pl.struct(*one, pl.int_range(pl.len()).over(*one) // several).rle_id())
        return runs.sort("asset", "start", "first", nulls_last=True, maintain_order=True)


def _join_runs(runs: pl.DataFrame, number: pl.Expr) -> pl.DataFrame:
    """Join the runs that have the same number into one."""
    joined = runs.group_by(number.alias("run"), maintain_order=True).agg(
        pl.col("check", "policy", "asset").first(),
        pl.col("start").min(),
        pl.col("end").max(),
        pl.col("bars").sum(),
        pl.col("first").min(),
        pl.col("last").max(),
    )
    return joined.drop("run")


def merge(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Merge the findings of the pieces of a table.

    Args:
        tables: at least one, with the columns `FINDINGS`.

    Returns:
        One table in the order of `CHECKS`, with one row per check and asset: counts are added, the first time is kept.
    """
    rank = pl.col("check").replace_strict({name: number for number, name in enumerate(CHECKS)})
    found = pl.concat(tables).group_by("check", "policy", "asset", maintain_order=True)
    return found.agg(pl.col("bars").sum(), pl.col("first").first()).sort(rank, maintain_order=True)


def describe_findings(table: pl.DataFrame) -> str:
    """Describe findings in a line per check, the four assets with the most faulty bars first.

    Args:
        table: findings, with the columns `FINDINGS`.

    Returns:
        Lines such as `stale_run (warn): A 2 (from 2020-01-15)`, or `nothing found`.
    """
    lines = []
    for (check, policy), found in table.group_by("check", "policy", maintain_order=True):
        worst = found.sort("bars", descending=True).head(4)
        counts = ", ".join(f"{row['asset']} {row['bars']}{_since(row)}" for row in worst.iter_rows(named=True))
        others = f" and {found.height - 4} more assets" if found.height > 4 else ""
        lines.append(f"{check} ({policy}): {counts}{others}")
    return "\n".join(lines) or "nothing found"


def _since(row: Mapping[str, Any]) -> str:
    """Name the first faulty bar, if the finding is not of an asset as a whole."""
    return f" (from {moment_in_words(row['first'])})" if row["first"] is not None else ""


def place(row: Mapping[str, Any]) -> str:
    """Name a bar by its asset and time.

    Args:
        row: values of a bar by column.

    Returns:
        Text such as `AAPL 2020-01-15`.
    """
    return f"{row['asset']} {moment_in_words(row['timestamp'])}"


def _text_of(value: float | None) -> str:
    return "empty" if value is None else f"{value:g}"


def refuse_policies(key: str, policies: Mapping[str, Policy]) -> None:
    """Refuse a check or a policy that does not exist.

    Args:
        key: of data.checks that holds the policies, for messages.
        policies: check -> policy.

    Raises:
        ValueError: names the check or the policy, and what there is instead.
    """
    for name, policy in policies.items():
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CHECKS)}"
            raise ValueError(f"data.checks.{key} has {name!r}; {hint}")
        if policy not in CHECKS[name].policies:
            allowed = ", ".join(CHECKS[name].policies)
            raise ValueError(f"data.checks.{key}.{name} is {policy!r}; it must be one of {allowed}")
