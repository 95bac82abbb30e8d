"""Group flagged bars into a short list of events: time, score, features to blame, and likely kind of error."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from refold.data.bars.market import survey
from refold.data.bars.table import TableKind
from refold.scoring.guesses import split_guesses
from refold.scoring.rules import RULES

KINDS = ("unit", "split", "bad tick", "stale")
"""Kinds that a rule can name, the most telling first. An event that none of them explains is a regime."""

OTHER = "regime"

BLAMED_SHARE = 0.8
"""The features to blame are the fewest that make up this share of the score at the peak."""

CONTEXT = 60
"""Bars before and after a bar that its likely kind depends on."""

CONTRIBUTION = "contribution/"

MODEL, CHECKED = "model", "checks"
"""Finders of events: the model or the checks."""

DONE = {"warn": "kept as it is", "mask": "kept without values", "drop": "dropped", "flagged": "flagged"}
"""Policy of a check -> what was done with the faulty bars."""

DONE_TO_GAP = {"warn": "series ends", "mask": "filled with bars without values"}


def likely_kinds(bars: pl.DataFrame, market: pl.DataFrame | None = None, kind: TableKind = "prices") -> pl.Series:
    """Name the kind of error that each bar looks like; see `likely_looks`, of which this is the first column."""
    return likely_looks(bars, market, kind)["kind"]


def likely_looks(bars: pl.DataFrame, market: pl.DataFrame | None = None, kind: TableKind = "prices") -> pl.DataFrame:
    """Name the kind of error that each bar looks like: the most telling of those whose rule fires there or beside it.

    Where no rule fires and a second guess is a split, it looks like a split.

    This is a description and not a score: most rules look at the bars after a bar, too.

    Args:
        bars: N canonical bars, sorted by asset, then time.
        market: `checks.survey` of the table that the bars are a piece of; None: the bars are a table of their own.
        kind: of the table; the rules are about prices, and none fires on a series of other numbers.

    Returns:
        kind and guess (N rows), null where nothing is said; see `refold.scoring.guesses.split_guesses` for the second.
    """
    if kind == "series":
        nothing = pl.Series("kind", [None], dtype=pl.String).new_from_index(0, bars.height)
        return pl.DataFrame([nothing, nothing.alias("guess")])
    market = survey(bars) if market is None else market
    nothing = bars.clear()  # a rule that was fitted to nothing takes nothing for usual, such as repeated closes
    marks = {}
    for name in KINDS:
        found = pl.lit(None, pl.Float64)
        if "close" in bars.columns:
            scores = RULES[name]().fit(nothing, nothing).score(bars, market)
            found = pl.lit(pl.Series(scores).fill_nan(None))
        marks[name] = found
    table = bars.select("asset", *(mark.alias(name) for name, mark in marks.items()))
    near = [
        pl.any_horizontal((pl.col(name).shift(lag) >= 1).over("asset").fill_null(False) for lag in (-1, 0, 1))
        for name in KINDS
    ]
    choice = [pl.when(mark).then(pl.lit(name)) for mark, name in zip(near, KINDS, strict=True)]
    guess = split_guesses(bars, market)
    guessed = pl.when(pl.lit(guess).is_not_null()).then(pl.lit("split"))
    return table.select(pl.coalesce(*choice, guessed).alias("kind"), pl.lit(guess).alias("guess"))


class Events:
    """Collect the events of tables that come one after the other, such as the pieces of a long one."""

    def __init__(self) -> None:
        self.flagged = 0
        self._ended: list[pl.DataFrame] = []
        self._open: list[pl.DataFrame] = []

    def add(self, table: pl.DataFrame) -> None:
        """Add the next rows.

        Args:
            table: columns as for `group_events`, and verdict; all rows, in order.
        """
        flagged = table.filter("verdict")
        self.flagged += flagged.height
        rows = pl.concat([*self._open, flagged])
        number = rows.select(_event_number()).to_series()
        unfinished = number.max() if table["verdict"][-1] else 0  # they are numbered from 1
        self._open = [rows.filter(number == unfinished)]
        self._ended.append(group_events(rows.filter(number != unfinished)))

    def merge(self, flagged: int, table: pl.DataFrame) -> None:
        """Add what was collected of other assets.

        Args:
            flagged: number of flagged bars.
            table: their events, as `table` returns them.
        """
        self.flagged += flagged
        self._ended.append(table)

    def table(self) -> pl.DataFrame:
        """Return all events of at least one table, as `group_events` makes them."""
        return pl.concat([*self._ended, *([group_events(pl.concat(self._open))] if self._open else [])])


def _event_number() -> pl.Expr:
    """Number the events of flagged bars, from 1."""
    new = (pl.col("asset") != pl.col("asset").shift(1)) | (pl.col("place") != pl.col("place").shift(1) + 1)
    return new.fill_null(True).cum_sum()


def group_events(flagged: pl.DataFrame) -> pl.DataFrame:
    """Group runs of neighbouring flagged bars into events, in the order of the bars.

    Args:
        flagged: timestamp, asset, score, rarity, probability (where the score names kinds), place (number of the row in
            the table that they are a piece of), kind (likely, or null), guess (a second one, or null) and
            `contribution/<feature>` columns, in order of asset and time.

    Returns:
        asset, start, end, peak (timestamps), score, rarity and probability (at the peak), features (";"-joined, most to
        blame first), kind (at the peak, where the score names it), guess and bars (how many were flagged).
    """
    columns = ["asset", "start", "end", "peak", "score", "rarity", "features", "kind", "guess", "bars"]
    if named := "probability" in flagged.columns:
        columns.insert(6, "probability")
    if flagged.height == 0:
        when = dict.fromkeys(("start", "end", "peak"), flagged.schema["timestamp"])
        texts = dict.fromkeys(("asset", "features", "kind", "guess"), pl.String)
        numbers = {"score": pl.Float64, "rarity": pl.Float64, "probability": pl.Float64, "bars": pl.Int64}
        return pl.DataFrame(schema={**texts, **when, **numbers}).select(columns)
    features = [name.removeprefix(CONTRIBUTION) for name in flagged.columns if name.startswith(CONTRIBUTION)]
    numbered = flagged.with_columns(_event_number().alias("event"))
    peak = pl.col("score").arg_max()
    rank = pl.col("kind").replace_strict(dict(zip(KINDS, range(len(KINDS)), strict=True)), default=len(KINDS))
    events = numbered.group_by("event", maintain_order=True).agg(
        pl.col("asset").first(),
        pl.col("timestamp").first().alias("start"),
        pl.col("timestamp").last().alias("end"),
        pl.col("timestamp").get(peak).alias("peak"),
        pl.col("score").max(),
        pl.col("rarity").get(peak),
        *([pl.col("probability").get(peak)] if named else []),
        pl.col("kind").get(peak).alias("called"),
        rank.min().alias("rank"),
        pl.col("guess").drop_nulls().first(),
        pl.len().cast(pl.Int64).alias("bars"),
        *(pl.col(CONTRIBUTION + name).get(peak) for name in features),
    )
    shares = events.select(CONTRIBUTION + name for name in features).to_numpy()
    return events.with_columns(
        pl.Series("features", [";".join(blame(row, features)) for row in shares], dtype=pl.String),
        events["called"].alias("kind") if named else pl.Series("kind", _most_telling(events["rank"]), dtype=pl.String),
    ).select(columns)


def _most_telling(ranks: pl.Series) -> list[str]:
    """Return the kinds of ranks, in the order of KINDS; a regime comes last."""
    return [[*KINDS, OTHER][rank] for rank in ranks]


def with_findings(events: pl.DataFrame, runs: pl.DataFrame | None) -> pl.DataFrame:
    """Put what the checks found beside the events of the model.

    Args:
        events: of the model, as `group_events` makes them.
        runs: of faulty bars, as `refold.data.bars.findings.FaultyRuns` lists them; None if there is none.

    Returns:
        The columns of `events`, and found_by (model or checks), policy (of the check) and done (what was done with the
        bars), sorted by asset, then start. The kind of a finding is the name of its check; it has no peak, no score and
        no features. Rows without a date or an asset come last.
    """
    flagged = events.with_columns(
        found_by=pl.lit(MODEL), policy=pl.lit(None, pl.String), done=pl.lit(DONE["flagged"], pl.String)
    )
    if runs is None:
        return flagged
    gap = pl.col("check") == "gap"
    done = pl.when(gap).then(pl.col("policy").replace_strict(DONE_TO_GAP, default=None))
    found = runs.select(
        pl.col("asset", "start", "end", "bars", "policy"),
        pl.col("check").alias("kind"),
        found_by=pl.lit(CHECKED),
        done=done.otherwise(pl.col("policy").replace_strict(DONE, default=None)),
    )
    both = pl.concat([flagged, found], how="diagonal_relaxed")
    return both.sort("asset", "start", nulls_last=True, maintain_order=True)


def blame(shares: np.ndarray, features: Sequence[str]) -> list[str]:
    """Return the fewest features that make up BLAMED_SHARE of a score, most to blame first.

    Args:
        shares: (F,) contributions to the score.
        features: (F,) names.
    """
    order = np.argsort(-shares, kind="stable")
    positive = np.clip(shares[order], 0, None)
    total = positive.sum()
    if not total > 0:
        return []
    needed = int(np.searchsorted(positive.cumsum(), BLAMED_SHARE * total)) + 1
    return [features[int(place)] for place in order[:needed]]
