"""A table of any length scored a piece at a time: memory beyond the table itself does not grow with it.

A piece takes along as many bars before and after it as its scores depend on, so that the scores are those of the whole.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.checks import survey
from refold.data.features import find, longest_lookback
from refold.data.pipeline import Whole, whole
from refold.errors import DataError
from refold.scoring.detector import Detector, Scores, seconds
from refold.scoring.events import CONTEXT, CONTRIBUTION, likely_kinds
from refold.scoring.scores.base import blocks_of

PIECE = 100_000
"""Rows of a piece: some 100 MB of features, windows and results with five features."""

SAME_FREQUENCY = 1.5
"""By what factor the usual time between two bars may differ from that of the run's own."""


def refuse_unlike(detector: Detector, bars: pl.DataFrame, where: str) -> None:
    """Refuse bars that the run's model cannot judge.

    Args: bars: canonical. where: what they are, for messages.
    Raises: DataError: columns or assets differ (the difference is listed), no asset has bars for a window, the bars are
        of another frequency, or an asset's price never moves.
    """
    recipe = detector.recipe
    features = [find(name) for name in recipe.features]
    needed = list(dict.fromkeys(column for feature in features for column in feature.columns))
    present = [name for name in bars.columns if name not in ("timestamp", "asset")]
    if missing := [name for name in needed if name not in present]:
        raise DataError(
            f"{where} has the columns {', '.join(present)}; the run's features {', '.join(recipe.features)} "
            f"are made of {', '.join(needed)}: missing {', '.join(missing)}"
        )
    if recipe.layout == "panel":
        _refuse_other_assets(detector, bars, where)
    price = "close" if "close" in present else needed[0]
    per_asset = bars.group_by("asset", maintain_order=True).agg(
        pl.len().alias("bars"),
        (pl.col(price).max() == pl.col(price).min()).alias("constant"),
        pl.col(price).min().alias("price"),
    )
    shortest = recipe.window_size + longest_lookback(features) - 1
    if int(per_asset["bars"].max() or 0) < shortest:
        raise DataError(
            f"{where} has at most {per_asset['bars'].max() or 0} bars of an asset; a window of data.window_size = "
            f"{recipe.window_size} bars needs {shortest} with the look-back of the features"
        )
    for row in per_asset.filter(pl.col("constant") & (pl.col("bars") >= shortest)).iter_rows(named=True):
        raise DataError(
            f"{where}: {row['asset']} has the {price} {row['price']:g} in all of its {row['bars']} bars; a constant "
            f"series cannot be judged: leave it out with data.source.table.assets"
        )
    _refuse_other_frequency(detector, bars, where)


def _refuse_other_assets(detector: Detector, bars: pl.DataFrame, where: str) -> None:
    own = list(dict.fromkeys(column.rpartition("/")[0] for column in detector.columns))
    found = bars["asset"].unique().drop_nulls().to_list()
    missing, unknown = sorted(set(own) - set(found)), sorted(set(found) - set(own))
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise DataError(
            f"{where} does not have the {len(own)} assets of the run's panel: {'; '.join(parts)}. "
            f"data.source.table.assets chooses among those of a file"
        )


def _refuse_other_frequency(detector: Detector, bars: pl.DataFrame, where: str) -> None:
    own = detector.validation.get("bar_seconds", float("nan"))
    step = bars.select(pl.col("timestamp").to_physical().diff().over("asset").abs().median()).item()
    if step is None or not own > 0:
        return
    usual = float(seconds(np.float64(step), bars.schema["timestamp"]))
    if not own / SAME_FREQUENCY < usual < own * SAME_FREQUENCY:
        raise DataError(
            f"{where} has a bar every {_duration(usual)}; the run was trained on one every {_duration(own)}: errors of "
            f"one frequency say nothing about another"
        )


def _duration(length: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if length >= size:
            return f"{length / size:g} {name}"
    return f"{length:g} seconds"


def in_order(detector: Detector, bars: pl.DataFrame) -> pl.DataFrame:
    """Bars sorted by asset, then time. Raises: DataError: they are not, and the run's checks make that an error."""
    keys = bars.select("asset", "timestamp")
    if keys.equals(keys.sort("asset", "timestamp")):
        return bars
    if detector.recipe.checks.policies["out_of_order"] == "error":
        detector.recipe.checks.run(bars)  # says where
    return bars.sort("asset", "timestamp", maintain_order=True)


def scan(
    detector: Detector,
    bars: pl.DataFrame,
    *,
    piece: int = PIECE,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[pl.DataFrame]:
    """Score bars of any number.

    Args: bars: canonical, `in_order`. piece: rows at a time. progress: is told of rows that are done.
    Yields: rows in the order of the bars, as `frame` makes them.
    Raises: DataError: a check refuses bars.
    """
    tails: dict[str, object] = {}
    for here in pieces(detector, bars, piece):
        scored = detector.score_series(here.made.series, here.made.segments, here.made.origin)
        rows = frame(detector, here.part, scored, tails, here.kept, likely_kinds(here.part))
        yield rows.with_columns((pl.int_range(pl.len()) + here.start).alias("place"))
        progress(rows.height)


class Piece(NamedTuple):
    """Rows of a table with those around them that what is said about them depends on.

    part: bars. kept: those of them that the piece is about; the first is row `start` of the table. made: of part.
    """

    part: pl.DataFrame
    kept: slice
    start: int
    made: Whole


def pieces(detector: Detector, bars: pl.DataFrame, piece: int) -> Iterator[Piece]:
    """Cut a table into pieces whose `kept` rows are all rows, once. Args: bars: canonical, `in_order`. piece: rows."""
    recipe = detector.recipe
    before, after = context(detector)
    market = survey(bars)
    if recipe.layout == "panel" or (recipe.checks.calendar is None and "drop" in recipe.checks.policies.values()):
        # a moment of a panel is in as many places of the table as there are assets; and where runs go on over bars that
        # were dropped, no number of rows is sure to hold the bars that a score depends on
        piece = bars.height
    for start in range(0, bars.height, piece):
        end, first = min(start + piece, bars.height), max(0, start - before)
        part = bars.slice(first, min(end + after, bars.height) - first)
        yield Piece(part, slice(start - first, end - first), start, whole(part, recipe, detector.scaler, market))


def scan_parts(
    detector: Detector,
    bars: pl.DataFrame,
    segments: Mapping[str, np.ndarray],
) -> Iterator[pl.DataFrame]:
    """Score parts of the bars that a run was trained on, with windows that cross no border between parts.

    Args: bars: canonical, `in_order`, all of the run. segments: part -> (S, 2) runs, as the run's data module has them.
    Yields: for each part its rows as `frame` makes them, with the column part.
    """
    made = whole(bars, detector.recipe, detector.scaler)
    likely = likely_kinds(bars)
    for part, runs in segments.items():
        scored = detector.score_series(made.series, runs, made.origin)
        inside = np.zeros(len(made.origin), dtype=bool)
        for first, count in runs:
            inside[first : first + count] = True
        rows = frame(detector, bars, scored, {}, slice(0, bars.height), likely)
        place = np.sort(made.origin[inside].reshape(-1))
        place = place[place >= 0]
        yield rows[place].with_columns(pl.Series("place", place), pl.lit(part).alias("part"))


def context(detector: Detector) -> tuple[int, int]:
    """Rows before and after a row that what is said about it depends on."""
    recipe, score = detector.recipe, detector.score_function
    around = (recipe.window_size - 1) + (recipe.max_masked + 1)
    lookback = longest_lookback([find(name) for name in recipe.features]) - 1
    before = around + lookback + recipe.checks.stale_bars + score.before
    return max(before, CONTEXT), max(around + score.after, CONTEXT)


def frame(
    detector: Detector,
    bars: pl.DataFrame,
    scored: Scores,
    tails: dict[str, object],
    kept: slice,
    kinds: pl.Series,
) -> pl.DataFrame:
    """Scored bars as a table.

    Args: bars: canonical, in order. scored: of these bars. tails: asset -> what the threshold has learnt from its bars
        before; is brought up to date. kept: the rows of `bars` that are asked for. kinds: what each bar looks like.
    Returns: timestamp, asset, score (null where there is none), threshold, verdict, close, reconstructed_close,
        contribution/<feature> of each feature, kind (what the bar looks like, or null).
    """
    count = bars.height
    there = scored.origin >= 0
    rows = scored.origin[there]
    score = _scatter(scored.score[there], rows, count)[kept]
    shares = _scatter(scored.contributions[there], rows, count)[kept]
    made = _scatter(scored.reconstruction[there], rows, count)
    table = bars.select("timestamp", pl.col("asset").cast(pl.String), *(["close"] if "close" in bars.columns else []))
    if "close" in table.columns:
        table = table.with_columns(reconstructed_close(detector, bars, made))
    table = table[kept]
    levels = np.empty(len(score))
    names = table["asset"].rle_id().to_numpy()
    for block in blocks_of(names):
        asset = table["asset"][block.start]
        levels[block], tails[asset] = detector.threshold.levels(score[block], tails.get(asset))
    with np.errstate(invalid="ignore"):
        verdict = score > levels
    table = table.with_columns(
        pl.Series("score", score).fill_nan(None),
        pl.Series("threshold", levels),
        pl.Series("verdict", verdict),
        kinds[kept],
    )
    if detector.score_function.names_features:
        table = table.with_columns(
            pl.Series(CONTRIBUTION + name, shares[:, n].astype(np.float32)).fill_nan(None)
            for n, name in enumerate(detector.features)
        )
    first = ["timestamp", "asset", "score", "threshold", "verdict"]
    return table.select(*first, pl.exclude(*first, "kind"), "kind")


def reconstructed_close(detector: Detector, bars: pl.DataFrame, made: np.ndarray) -> pl.Series:
    """The close that the reconstructed features of a bar give: by itself, or after the true close before it.

    Null if they tell none.

    Args: made: (N, F) in the units of the features.
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
