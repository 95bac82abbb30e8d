"""From flagged bars to events: where they begin and end, what is blamed, and what they look like."""

import numpy as np
import polars as pl
import pytest

from refold.scoring.events import Events, blame, group_events, likely_kinds, likely_looks
from tests.data.makers import random_bars


def flagged(places: list[int], scores: list[float], kinds: list[str | None], assets: str) -> pl.DataFrame:
    bars = random_bars([200])
    return pl.DataFrame(
        {
            "timestamp": bars["timestamp"].gather(places),
            "asset": list(assets),
            "score": scores,
            "rarity": [1 / (1 + score) for score in scores],
            "place": places,
            "kind": pl.Series(kinds, dtype=pl.String),
            "guess": pl.Series([None] * (len(places) - 1) + ["split?"], dtype=pl.String),
            "contribution/a": [0.7 * score for score in scores],
            "contribution/b": [0.3 * score for score in scores],
        }
    )


def test_neighbouring_bars_of_one_asset_are_one_event():
    table = flagged([3, 4, 5, 9, 10], [1.0, 5.0, 2.0, 7.0, 3.0], [None, "bad tick", "unit", None, "stale"], "AAAAB")
    events = group_events(table)
    days = table["timestamp"]
    assert events["asset"].to_list() == ["A", "A", "B"]
    assert events["start"].to_list() == [days[0], days[3], days[4]]
    assert events["end"].to_list() == [days[2], days[3], days[4]]
    assert events["peak"].to_list() == [days[1], days[3], days[4]]
    assert events["score"].to_list() == [5.0, 7.0, 3.0]
    assert events["rarity"].to_list() == [1 / 6, 1 / 8, 1 / 4]
    assert events["kind"].to_list() == ["unit", "regime", "stale"]
    assert events["guess"].to_list() == [None, None, "split?"]
    assert events["features"].to_list() == ["a;b"] * 3


def test_nothing_flagged_is_an_empty_list_with_the_same_columns():
    table = flagged([3], [1.0], [None], "A")
    empty, one = group_events(table.clear()), group_events(table)
    assert empty.height == 0
    assert empty.schema == one.schema


def test_the_fewest_features_that_make_up_most_of_a_score_are_blamed():
    assert blame(np.array([0.1, 0.85, 0.05]), ["x", "y", "z"]) == ["y"]
    assert blame(np.array([0.4, 0.45, 0.15]), ["x", "y", "z"]) == ["y", "x"]
    assert blame(np.array([-3.0, 5.0, 0.1]), ["x", "y", "z"]) == ["y"]  # one below 0 is explained by the others
    assert blame(np.array([0.0, 0.0]), ["x", "y"]) == []


def calm(rows: int = 160) -> pl.DataFrame:
    """Prices that move by one part in a hundred, with trade in money that is steady."""
    bars = random_bars([rows])
    close = 50 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, rows)))
    return bars.with_columns(close=close, open=close, high=close * 1.01, low=close * 0.99, volume=1e6 * 50 / close)


PRICES = pl.col("open", "high", "low", "close")


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("bad tick", lambda row: pl.when(row == 100).then(PRICES * 1.3).otherwise(PRICES)),
        ("stale", lambda row: pl.when(row.is_between(95, 105)).then(PRICES.gather(94)).otherwise(PRICES)),
        ("split", lambda row: pl.when(row >= 100).then(PRICES / 2).otherwise(PRICES)),
        ("unit", lambda row: pl.when(row.is_between(100, 103)).then(PRICES * 100).otherwise(PRICES)),
        (None, lambda row: pl.when(row >= 100).then(PRICES * 0.85).otherwise(PRICES)),  # a jump that stays is real
    ],
)
def test_what_a_bar_looks_like(kind, spoil):
    row = pl.int_range(pl.len())
    bars = calm().with_columns(spoil(row))
    if kind == "split":
        bars = bars.with_columns(pl.when(row >= 100).then(pl.col("volume") * 2).otherwise(pl.col("volume")))
    found = likely_kinds(bars)
    assert found[100] == kind
    assert found[50] is None
    assert likely_kinds(bars.drop("close"))[100] is None


@pytest.mark.parametrize(
    ("ratio", "move", "guess"),
    [
        (2.0, 0.0, "split?"),
        (2.0, 0.045, "split and a 5 % move?"),  # the rule of splits allows 3 %
        (0.2, -0.045, "split and a 4 % move?"),
        (2.0, 0.09, None),  # more than nine usual moves of this asset are no day of it
    ],
)
def test_a_split_on_a_day_that_moved_is_no_regime(ratio, move, guess):
    row, after = pl.int_range(pl.len()), pl.int_range(pl.len()) >= 100
    bars = calm()
    first = float(np.log(bars["close"][100] / bars["close"][99]))
    factor = np.exp(move - first) / ratio
    bars = bars.with_columns(
        pl.when(after).then(PRICES * factor).otherwise(PRICES),
        pl.when(after).then(pl.col("volume") * ratio).otherwise(pl.col("volume")).alias("volume"),
    )
    looks = likely_looks(bars)
    assert looks["guess"][99:102].to_list() == [guess] * 3
    assert looks["guess"].drop_nulls().len() == 3 * (guess is not None)
    assert looks["kind"][100] == ("split" if guess else None)
    crash = bars.with_columns(volume=pl.when(row == 100).then(pl.col("volume") * 3.5).otherwise(pl.col("volume")))
    assert likely_looks(crash)["guess"].null_count() == crash.height  # heavy trade is no split, as AAPL's of 2000-09-29
    wild = bars.with_columns(PRICES * pl.when(row % 2 == 0).then(1.25).otherwise(1.0))
    assert likely_looks(wild)["guess"].null_count() == wild.height  # nor is what the asset does each day


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_events_of_pieces_are_those_of_the_whole(rows):
    generator = np.random.default_rng(0)
    bars = random_bars([60, 60])
    marks = generator.random(120) < 0.6
    marks[[59, 60]] = True  # the end of one asset and the beginning of the next
    table = (
        bars.select("timestamp", "asset")
        .with_row_index("place")
        .with_columns(
            pl.Series("score", generator.gamma(1, 1, 120)),
            pl.Series("rarity", generator.random(120)),
            pl.Series("verdict", marks),
            pl.Series("kind", generator.choice(["unit", "stale", None], 120).tolist(), dtype=pl.String),
            pl.Series("guess", generator.choice(["split?", None], 120).tolist(), dtype=pl.String),
            pl.Series("contribution/a", generator.random(120)),
        )
    )
    events = Events()
    for start in range(0, 120, rows):
        events.add(table[start : start + rows])
    assert events.table().equals(group_events(table.filter("verdict")))
    assert events.flagged == marks.sum()
