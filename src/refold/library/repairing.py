"""Propose repairs for the events of a scoring, for `refold score repair=...` and `Run.repair` alike."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from refold.data.bars.table import PRICES
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.sources.source import batches_of
from refold.errors import ConfigError, DataError
from refold.library.scored_files import escape_formulas
from refold.scoring.repair import apply_repairs, repair

if TYPE_CHECKING:
    from refold.library.judge import Judge
    from refold.library.scoring_result import Scoring

MOST_BARS, MOST_EVENTS = 200_000, 2_000
"""Bars and events up to which a report has repairs although none were asked for: they take some seconds then."""

REPAIRS, REPAIRED = "repairs.csv", "repaired.parquet"

CHOICES = ("false", "true", "copy")
"""Values of `repair` on the command line: nothing, repairs.csv, or a repaired copy of the bars beside it."""


class Repairs(NamedTuple):
    """Hold bars and what is proposed for them.

    Attributes:
        bars: all of the table, canonical, as they were read.
        proposed: as `refold.scoring.repair.repair` returns it.
    """

    bars: pl.DataFrame
    proposed: pl.DataFrame

    def applied(self) -> pl.DataFrame:
        """Return a copy of the bars with the proposed values."""
        return apply_repairs(self.bars, self.proposed)

    def words(self) -> str:
        """Say how many events of which kinds would be changed."""
        kinds = Counter(
            dict(
                self.proposed.unique(["asset", "event_start", "explanation"])["explanation"].value_counts().iter_rows()
            )
        )
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        return f"repairs proposed: {told or 'none'}; the bars are as they were"


def propose_repairs(judge: "Judge", scoring: "Scoring") -> Repairs:
    """Propose values for the bars of the events of a scoring. The table is read again, into memory.

    Args:
        judge: what scored.
        scoring: its result.

    Raises:
        DataError: the bars lack a price, or are no prices.
    """
    if judge.detector.recipe.checks.kind != "prices":
        raise DataError("repair is for bars of prices; these are a series of other numbers, of which it knows no ratio")
    return _proposed(_read_again(judge), scoring)


def _read_again(judge: "Judge") -> OrderedBars:
    source = judge.own_data.source if judge.source is None else judge.source
    return read_sorted(batches_of(source), judge.detector.recipe.checks)


def _proposed(ordered: OrderedBars, scoring: "Scoring") -> Repairs:
    bars = ordered.slice(0, ordered.rows)
    return Repairs(bars, repair(bars, scoring.events))


def repairs_for_report(judge: "Judge", scoring: "Scoring") -> Repairs | None:
    """Propose repairs for the page about a scoring; None where there is nothing to repair by, or too much to read.

    Args:
        judge: what scored.
        scoring: its result.
    """
    if scoring.facts["bars"] > MOST_BARS or judge.detector.recipe.checks.kind != "prices":
        return None
    if not 0 < scoring.events.height <= MOST_EVENTS:
        return None
    ordered = _read_again(judge)
    if ordered.rows > MOST_BARS or not set(PRICES) <= set(ordered.schema):
        return None
    return _proposed(ordered, scoring)


def check_choice(value: str) -> str:
    """Return the value of `repair`.

    Raises:
        ConfigError: it is none of CHOICES.
    """
    if value not in CHOICES:
        raise ConfigError(f"repair is {value}; it must be one of {', '.join(CHOICES)}")
    return value


def write_repairs(repairs: Repairs, folder: Path, choice: str) -> None:
    """Write repairs.csv, and the repaired bars if they are asked for.

    Args:
        repairs: to write.
        folder: of the scoring.
        choice: one of CHOICES.
    """
    escape_formulas(repairs.proposed).write_csv(folder / REPAIRS)
    if choice == "copy":
        repairs.applied().write_parquet(folder / REPAIRED)
