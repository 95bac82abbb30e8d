"""The checks by name, and the table of what they found."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import polars as pl

from refold.data.bars.table import OHLCV
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
    "stale_run": Check("the close has not moved for data.checks.stale_bars bars"),
    "split_like": Check("the price jumps by the ratio of a split; adjust it, or let it pass"),
    "unit_like": Check("the price jumps by a factor of 100 or 1000, as when the unit changes"),
    "off_session": Check("the exchange of data.checks.calendar was closed"),
    "gap": Check("the calendar expects a bar that is not there", ("error", "warn", "mask")),
    "feature_not_finite": Check("a feature must be a finite number", ("error", "mask", "drop")),
}
"""All checks, in the order in which they are made."""

FINDINGS = {"check": pl.String, "policy": pl.String, "asset": pl.String, "bars": pl.Int64, "first": pl.String}
"""Columns of a table of findings: one row per check and asset, with the number of bars and the time of the first."""

EVERY_ROW = pl.lit(True)


class Findings:
    """Collect what checks find, and stop at a check whose policy is error.

    Args:
        policies: check -> policy, for all of `CHECKS`.
        counted: boolean expression over bars that selects the rows to count; the others are only looked back on.
    """

    def __init__(self, policies: Mapping[str, Policy], counted: pl.Expr) -> None:
        self.policies = policies
        self.counted = counted
        self.tables = [pl.DataFrame(schema=FINDINGS)]

    def add(self, name: str, found: pl.DataFrame) -> None:
        """Count the faulty bars of a check per asset.

        Args:
            name: the check, one of `CHECKS`.
            found: the faulty bars, at least one.

        Raises:
            DataError: the policy of the check is error; the message names the first bar and its values.
        """
        if self.policies[name] == "error":
            row = found.row(0, named=True)
            values = ", ".join(f"{key} {_short(row[key])}" for key in OHLCV if key in row)
            values = "" if name == "gap" else f"; it has {values}"
            more = f" ({found.height} such bars)" if found.height > 1 else ""
            others = ", ".join(policy for policy in CHECKS[name].policies if policy != "error")
            raise DataError(
                f"{place(row)}: {CHECKS[name].complaint}{values}{more}. "
                f"data.checks.policies.{name} is error; it can be {others}"
            )
        counts = (
            found.filter(self.counted)
            .group_by("asset", maintain_order=True)
            .agg(pl.len().cast(pl.Int64).alias("bars"), pl.col("timestamp").first().cast(pl.String).alias("first"))
        )
        named = counts.with_columns(
            pl.col("asset").cast(pl.String), check=pl.lit(name), policy=pl.lit(self.policies[name])
        )
        self.tables.append(named.select(*FINDINGS))

    def table(self) -> pl.DataFrame:
        """Return all findings so far, in the order in which they were added; its columns are `FINDINGS`."""
        return pl.concat(self.tables)


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


def summary(table: pl.DataFrame) -> str:
    """Describe findings in a line per check, the four assets with the most faulty bars first.

    Args:
        table: findings, with the columns `FINDINGS`.

    Returns:
        Lines such as `stale_run (warn): A 2 (from 2020-01-15)`, or `nothing found`.
    """
    lines = []
    for (check, policy), found in table.group_by("check", "policy", maintain_order=True):
        worst = found.sort("bars", descending=True).head(4)
        counts = ", ".join(f"{row['asset']} {row['bars']} (from {row['first']})" for row in worst.iter_rows(named=True))
        others = f" and {found.height - 4} more assets" if found.height > 4 else ""
        lines.append(f"{check} ({policy}): {counts}{others}")
    return "\n".join(lines) or "nothing found"


def place(row: Mapping[str, Any]) -> str:
    """Name a bar by its asset and time.

    Args:
        row: values of a bar by column.

    Returns:
        Text such as `AAPL 2020-01-15`.
    """
    return f"{row['asset']} {row['timestamp']}"


def _short(value: float | None) -> str:
    return "empty" if value is None else f"{value:g}"
