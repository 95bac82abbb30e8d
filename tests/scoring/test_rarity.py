"""Rarity: counted among validation scores, extrapolated beyond them, never 0, the same in pieces and after loading."""

import numpy as np
import polars as pl
import pytest

from refold.scoring.rarity import LONGEST, SMALLEST, Rarity, once_in
from refold.scoring.thresholds import FEWEST_OWN, ValidationScores
from tests.scoring.test_thresholds import of_assets


def one_asset(scores: np.ndarray) -> ValidationScores:
    days = len(scores)
    return ValidationScores(scores, np.zeros(days, dtype=int), days, (days - 1) * 86400.0, days, ["A"])


@pytest.mark.parametrize("tail", ["exponential", "heavy", "bounded", "constant", "few", "one"])
def test_it_falls_with_the_score_and_is_never_0(tail):
    generator = np.random.default_rng(0)
    drawn = {
        "exponential": generator.exponential(1, 1000), "heavy": generator.pareto(2, 1000),
        "bounded": generator.uniform(0, 1, 1000), "constant": np.ones(300), "few": generator.exponential(1, 5),
        "one": np.ones(1),
    }[tail]  # fmt: skip
    rarity = Rarity(one_asset(drawn))
    scores = np.sort(np.concatenate([drawn, drawn.max() * np.logspace(0, 300, 400), [np.inf]]))
    found = rarity.of(scores, "A")
    assert (np.diff(found) <= 0).all()
    assert found.min() >= SMALLEST > 0
    assert found.max() == 1.0
    assert np.isnan(rarity.of(np.array([np.nan, 1.0]), "A")).tolist() == [True, False]


def test_up_to_the_highest_validation_score_it_is_counted_and_goes_on_from_there():
    known = np.random.default_rng(1).exponential(2.0, 5000)
    rarity = Rarity(one_asset(known))
    score = np.sort(known)[-50]
    assert rarity.of(np.array([score]), "A")[0] == 50 / 5000
    highest = known.max()
    assert rarity.of(np.array([highest]), "A")[0] == 1 / 5000
    assert rarity.of(np.array([np.nextafter(highest, np.inf)]), "A")[0] == pytest.approx(1 / 5000)
    # scores fall by e every 2.0; the tail is fitted to 100 of them, so its scale is right to about 10 %
    assert np.log(5000 * rarity.of(np.array([highest + 6.0]), "A")[0]) == pytest.approx(-3.0, rel=0.3)


def test_each_asset_is_ranked_among_its_own_bars_and_few_or_unknown_ones_among_all():
    known = of_assets(800, 800, FEWEST_OWN - 1)
    rarity = Rarity(known)
    assert rarity.pooled == {"C"}
    table = pl.Series(["A", "B", "C", "new"])
    found = rarity.of_table(np.full(4, 4.0), table)
    own = [np.mean(known.scores[known.asset == number] >= 4.0) for number in (0, 1)]
    assert found.tolist() == [*own, *[np.mean(known.scores >= 4.0)] * 2]
    again = Rarity(known, rarity.state())
    far = np.full(4, 200.0)
    assert (again.of_table(far, table) == rarity.of_table(far, table)).all()
    assert rarity.of_table(far, table)[0] < rarity.of_table(far, table)[1]


@pytest.mark.parametrize(
    ("rarity", "per_year", "intraday", "told"),
    [
        (1 / 252, 252, False, "once in 1.0 years"),
        (1 / 806.4, 252, False, "once in 3.2 years"),
        (1 / 2520, 252, False, "once in 10 years"),
        (1 / 50.4, 252, False, "5 times a year"),
        (1 / 240, 252, False, "once a year"),
        (1e-300, 252, False, f"once in more than {LONGEST:,} years"),
        (1 / 1000, 365.25 * 250, True, "once in 4.0 days"),
        (None, 252, False, None),
        (0.1, float("nan"), False, None),
    ],
)
def test_how_often_is_said_in_words(rarity, per_year, intraday, told):
    assert once_in(rarity, per_year, intraday=intraday) == told
