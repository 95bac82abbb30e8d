"""From flagged bars to events: where they begin and end, what is blamed, and what they look like."""

import numpy as np
import polars as pl
import pytest

from refold.scoring.events import Events, blame, group_events, likely_kinds
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
            pl.Series("contribution/a", generator.random(120)),
        )
    )
    events = Events()
    for start in range(0, 120, rows):
        events.add(table[start : start + rows])
    assert events.table().equals(group_events(table.filter("verdict")))
    assert events.flagged == marks.sum()
