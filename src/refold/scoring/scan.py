"""A table of any length scored a piece at a time: memory does not grow with it.

A piece takes along as many bars before and after it as its scores depend on, so that the scores are those of the whole.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.expected import OF
from refold.data.bars.findings import FaultyRuns
from refold.data.bars.table import LABEL
from refold.data.long.ordered import Cut, OrderedBars
from refold.data.unsplit import UnsplitSeries, unsplit_series
from refold.data.windows.views import Series
from refold.scoring.detector import Detector
from refold.scoring.drift import DriftTest
from refold.scoring.events import CONTEXT, CONTRIBUTION, likely_looks
from refold.scoring.measuring import Watch
from refold.scoring.scored import Scores, microseconds
from refold.scoring.scores.base_score import asset_rows
from refold.scoring.thresholds import Memory, running_levels

PIECE = 100_000
"""Rows of a piece: some 100 MB of features, windows and results with five features."""

RECONSTRUCTION = "reconstruction/"
"""Begins the name of the column of a reconstructed feature."""


def scan(
    detector: Detector,
    bars: OrderedBars,
    *,
    piece: int = PIECE,
    progress: Callable[[int], None] = lambda rows: None,
    findings: Callable[[pl.DataFrame], None] = lambda found: None,
    faulty: FaultyRuns | None = None,
    watch: Callable[["Piece"], Watch] | None = None,
    features: bool = False,
    drift: DriftTest | None = None,
) -> Iterator[pl.DataFrame]:
    """Score bars of any number.

    Args:
        detector: fitted.
        bars: sorted by asset, then time.
        piece: rows at a time.
        progress: gets the number of rows that are done.
        findings: gets what the checks of each piece found.
        faulty: gets the runs of faulty bars of each piece.
        watch: piece -> what sees its windows and what the model makes of them.
        features: whether rows have a column reconstruction/<feature> of each feature.
        drift: gets the scored bars; the caller finishes it.

    Yields:
        Rows in the order of the bars, as `frame` makes them, with their number in the column place.

    Raises:
        DataError: a check refuses bars.
    """
    tails: dict[str, Memory] = {}
    for here in pieces(detector, bars, piece):
        findings(here.made.findings)
        if faulty is not None:
            faulty.add(here.made.runs, here.start - here.kept.start)
        made = here.made
        scored = detector.score_series(
            made.series, made.segments, made.origin, watch=watch and watch(here), short_runs=made.short_runs
        )
        reason = _reasons(detector, here.made)
        looks = likely_looks(here.part, here.market, detector.recipe.checks.kind)
        rows = frame(detector, here.part, scored, tails, here.kept, looks, reason, features)
        yield rows.with_columns((pl.int_range(pl.len()) + here.start).alias("place"))
        progress(rows.height)
        if drift is not None:
            add_to_drift(drift, detector, made.series, scored, made_from(scored, here.kept))


class Piece(NamedTuple):
    """Rows of a table with those around them that what is said about them depends on.

    part: bars. kept: those of them that the piece is about; the first is row `start` of the table. market: what all
    assets did meanwhile. made: of part.
    """

    part: pl.DataFrame
    kept: slice
    start: int
    market: pl.DataFrame
    made: UnsplitSeries


def pieces(detector: Detector, bars: OrderedBars, piece: int) -> Iterator[Piece]:
    """Cut a table into pieces whose `kept` rows are all rows, once.

    Args:
        detector: says how many rows before and after a row its scores depend on.
        bars: sorted by asset, then time.
        piece: rows that a piece keeps.
    """
    detector = detector.checking(detector.recipe.checks.knowing(bars.timetables))
    if detector.recipe.layout == "panel":  # a moment is in as many places of the table as there are assets
        piece = bars.rows
    for cut in bars.cuts(piece):
        yield _piece(detector, bars, cut)


def _piece(detector: Detector, bars: OrderedBars, cut: Cut) -> Piece:
    """Read the rows of a cut with enough rows before and after them, and prepare them.

    Rows that a policy drops do not count: runs of bars may go on over them, as over duplicates. Where too many are
    dropped, more rows are read.
    """
    before, after = needed = context(detector)
    while True:
        low, high = max(cut.low, cut.first - before), min(cut.high, cut.end + after)
        part, kept = bars.slice(low, high), slice(cut.first - low, cut.end - low)
        market = bars.market(part)
        made = unsplit_series(part, detector.recipe, detector.scaler, market, kept)
        lacking_before = low > cut.low and np.count_nonzero((made.origin >= 0) & (made.origin < kept.start)) < needed[0]
        lacking_after = high < cut.high and np.count_nonzero(made.origin >= kept.stop) < needed[1]
        if not (lacking_before or lacking_after):
            return Piece(part, kept, cut.first, market, made)
        before, after = before * (2 if lacking_before else 1), after * (2 if lacking_after else 1)


def scan_parts(
    detector: Detector,
    bars: pl.DataFrame,
    segments: Mapping[str, np.ndarray],
    progress: Callable[[int], None] = lambda rows: None,
    watch: Callable[[str, UnsplitSeries], Watch] | None = None,
    faulty: FaultyRuns | None = None,
    drift: DriftTest | None = None,
) -> Iterator[pl.DataFrame]:
    """Score parts of the bars that a run was trained on, with windows that cross no border between parts.

    Args:
        detector: fitted.
        bars: canonical, sorted by asset, then time, all of the run.
        segments: part -> (S, 2) first row and number of rows of each run, as the run's data module has them.
        progress: gets the number of rows that are done.
        watch: (part, the bars as one series) -> what sees the part's windows and what the model makes of them.
        faulty: gets the runs of faulty bars that reach into a part.
        drift: gets the scored bars of the test part; the caller finishes it.

    Yields:
        For each part its rows as `frame` makes them, with the column part: of each asset all bars from the first that
        a window may hold to the last.
    """
    made = unsplit_series(bars, detector.recipe, detector.scaler)
    looks, shown = likely_looks(bars, kind=detector.recipe.checks.kind), np.zeros(bars.height, dtype=bool)
    for part, runs in segments.items():
        own = replace(made, segments=runs)
        seen = watch and watch(part, own)
        scored = detector.score_series(made.series, runs, made.origin, progress, seen)
        if drift is not None and part == "test":
            add_to_drift(drift, detector, made.series, scored, made_from(scored, slice(0, bars.height)))
        rows = frame(detector, bars, scored, {}, slice(0, bars.height), looks, _reasons(detector, own))
        place = _bars_of_part(made, runs, bars)
        shown[place] = True
        yield rows[place].with_columns(pl.Series("place", place), pl.lit(part).alias("part"))
    if faulty is not None:
        before = np.concatenate([[0], np.cumsum(shown)])
        faulty.add(
            runs.filter(pl.Series(before[runs["last"].to_numpy() + 1] > before[runs["first"].to_numpy()]))
            for runs in made.runs
        )


def made_from(scored: Scores, kept: slice) -> np.ndarray:
    """Return which scores (N,) are of some rows of the table."""
    return (scored.origin >= kept.start) & (scored.origin < kept.stop)


def add_to_drift(drift: DriftTest, detector: Detector, series: Series, scored: Scores, counted: np.ndarray) -> None:
    """Give a test of drift some of the scored bars, in order of time.

    Args:
        drift: gets them.
        detector: what scored them.
        series: scaled.
        scored: its N scores.
        counted: (N,) bool, those that the test gets.
    """
    values = detector.drift_values(series, scored)
    values[~counted] = np.nan
    times = microseconds(scored.times, series.time_dtype)
    for rows in asset_rows(scored.asset):
        drift.add(scored.names[int(scored.asset[rows.start])], times[rows], values[rows])


def _reasons(detector: Detector, made: UnsplitSeries) -> pl.Series:
    """Say of each bar of a table why it would have no score; see `UnsplitSeries.reasons`."""
    return made.reasons(detector.recipe.window_size, predicted=detector.score_function.predicts)


def _bars_of_part(made: UnsplitSeries, runs: np.ndarray, bars: pl.DataFrame) -> np.ndarray:
    """Return the rows of a table that lie, for each asset, from the first row of its runs to the last, sorted."""
    inside = np.zeros(len(made.origin), dtype=bool)
    for first, count in runs:
        inside[first : first + count] = True
    place = made.origin[inside].reshape(-1)
    place = np.sort(place[place >= 0])
    asset = bars["asset"].rle_id().to_numpy()[place]
    ends = np.flatnonzero(np.diff(asset, append=-1) != 0)
    starts = np.flatnonzero(np.diff(asset, prepend=-1) != 0)
    spans = zip(place[starts].tolist(), place[ends].tolist(), strict=True)
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(first, last + 1) for first, last in spans)])


def context(detector: Detector) -> tuple[int, int]:
    """Rows before and after a row that what is said about it depends on."""
    recipe, score = detector.recipe, detector.score_function
    # a window, and the longest stretch of masked bars that another window may run over: refold.data.unsplit.Bridge
    around = (recipe.window_size - 1) + recipe.window_size
    around += detector.autoencoder.horizon if score.predicts else 0  # of the oldest window that predicts the row
    before = around + recipe.bars_before + max(recipe.checks.stale_bars, OF) + score.before
    return max(before, CONTEXT), max(around + score.after, CONTEXT)


def frame(
    detector: Detector,
    bars: pl.DataFrame,
    scored: Scores,
    tails: dict[str, Memory],
    kept: slice,
    looks: pl.DataFrame,
    reason: pl.Series,
    features: bool = False,
) -> pl.DataFrame:
    """Make a table of scored bars.

    Args:
        detector: what scored them.
        bars: canonical, in order.
        scored: of these bars.
        tails: asset -> what a threshold that learns knows of it; see `running_levels`.
        kept: the rows of `bars` that are asked for.
        looks: kind, what each bar looks like by the rules, and guess, a second one; a score that names kinds itself
            takes the place of the first.
        reason: why each bar would have no score.
        features: whether to add what each feature is reconstructed as.

    Returns:
        timestamp, asset, score (null where there is none), threshold, verdict, reason (why there is no score, null
        where there is one), rarity, probability (of an error, where the score names kinds), label if the bars have
        labels, close, reconstructed_close, contribution/<feature> of each feature, reconstruction/<feature> if asked
        for, kind (what the bar looks like, or null) and guess.
    """
    count = bars.height
    there = scored.origin >= 0
    rows = scored.origin[there]
    score = _scatter(scored.score[there], rows, count)[kept]
    shares = _scatter(scored.contributions[there], rows, count)[kept]
    made = _scatter(scored.reconstruction[there], rows, count)
    there_are = [name for name in (LABEL, "close") if name in bars.columns]
    table = bars.select("timestamp", pl.col("asset").cast(pl.String), *there_are)
    if "close" in table.columns:
        table = table.with_columns(reconstructed_close(detector, bars, made))
    table = table[kept]
    levels = running_levels(detector.threshold, score, table["asset"], tails)
    with np.errstate(invalid="ignore"):
        verdict = score > levels
    table = table.with_columns(
        pl.Series("score", score).fill_nan(None),
        pl.Series("threshold", levels),
        pl.Series("verdict", verdict),
        pl.when(pl.Series(np.isnan(score))).then(reason[kept]).alias("reason"),
        rarity_of(detector, score, table["asset"]),
        *looks[kept],
    )
    if scored.named is not None:
        probability = _scatter(scored.named.probability[there], rows, count)[kept]
        number = _scatter(scored.named.kind[there].astype(float), rows, count)[kept]
        called = pl.Series("kind", scored.named.names)[np.nan_to_num(number).astype(np.int64)]
        table = table.with_columns(
            pl.Series("probability", probability).fill_nan(None),
            pl.when(pl.Series(~np.isnan(probability))).then(called).alias("kind"),
        )
    if detector.score_function.names_features:
        table = table.with_columns(
            pl.Series(CONTRIBUTION + name, shares[:, n].astype(np.float32)).fill_nan(None)
            for n, name in enumerate(detector.features)
        )
    if features:
        table = table.with_columns(
            pl.Series(RECONSTRUCTION + name, made[kept, n]).fill_nan(None) for n, name in enumerate(detector.features)
        )
    first = ["timestamp", "asset", "score", "threshold", "verdict", "reason", "rarity"]
    first += ["probability"] * (scored.named is not None)
    return table.select(*first, pl.exclude(*first, *looks.columns), *looks.columns)


def rarity_of(detector: Detector, score: np.ndarray, assets: pl.Series) -> pl.Series:
    """Return the rarity (N,) of scores (N,) of bars of assets (N,); null where there is none.

    Args:
        detector: fitted; the rarity is null everywhere if it is not.
        score: NaN where there is none.
        assets: names; equal ones are neighbours.
    """
    if detector.rarity is None:
        return pl.Series("rarity", [None], dtype=pl.Float64).new_from_index(0, len(score))
    return pl.Series("rarity", detector.rarity.of_table(score, assets)).fill_nan(None)


def reconstructed_close(detector: Detector, bars: pl.DataFrame, made: np.ndarray) -> pl.Series:
    """Compute the close that the reconstructed features of a bar give, by themselves or after the close before it.

    Args:
        detector: names the features.
        bars: N bars with their closes.
        made: (N, F), in the units of the features.

    Returns:
        (N,) float64, null where the features determine no close.
    """
    by_name = {name: made[:, n].astype(np.float64) for n, name in enumerate(detector.features)}
    if "window_log_price" in by_name:
        return pl.Series("reconstructed_close", np.exp(by_name["window_log_price"])).fill_nan(None)
    if "log_return" in by_name:
        returns = by_name["log_return"]
    elif {"overnight_return", "intraday_return"} <= by_name.keys():
        returns = by_name["overnight_return"] + by_name["intraday_return"]
    else:
        return pl.Series("reconstructed_close", [None], dtype=pl.Float64).new_from_index(0, bars.height)
    last = bars.select(pl.col("close").shift(1).over("asset")).to_series().to_numpy()
    return pl.Series("reconstructed_close", last * np.exp(returns)).fill_nan(None)


def _scatter(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """(count, ...) with values at their rows, NaN elsewhere."""
    target = np.full((count, *values.shape[1:]), np.nan)
    target[rows] = values
    return target


def without_verdict(rows: pl.DataFrame, like: pl.DataFrame, reason: str) -> pl.DataFrame:
    """Give rows that were not judged the columns of scored bars: no score, no verdict.

    Args:
        rows: of a table.
        like: scored bars.
        reason: why they have no score.
    """
    return with_columns_of(rows, like).with_columns(verdict=pl.lit(False), reason=pl.lit(reason))


def with_columns_of(rows: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """Give rows the columns of another table; those that they do not have are empty.

    Args:
        rows: of a table.
        like: the other table.
    """
    known = rows.select(pl.col(name).cast(like.schema[name]) for name in rows.columns if name in like.columns)
    return pl.concat([like.clear(), known], how="diagonal")
