"""The evaluation of the named verdict: its sets, its scorers, and its tables."""

import json

import numpy as np
import polars as pl
import pytest

from refold.data.planted import PriceUnit, RealJump, Split, Stale
from refold.data.sources import Stocks
from refold.errors import ConfigError
from refold.report.summary import tables
from refold.scoring.rules import OnOneScale, StaleRun, UnitRatio
from refold.scoring.scores import Mahalanobis
from refold.studies.price_errors import (
    FIXED,
    HEAD,
    NO_MODEL,
    OTHER,
    RULES_AND_HEAD,
    TAUGHT,
    UNTAUGHT,
    UNUSUAL,
    NoAutoencoder,
    PriceErrors,
)
from refold.studies.price_errors_table import RESULTS, TEXT, finish
from refold.studies.scorers import ALL, NaturalTest
from tests.data.makers import random_bars, ready, table
from tests.scoring.test_detector import detector, parts, small_autoencoder
from tests.scoring.test_planted_score import score

BARS = random_bars([900, 900], seed=5)
KINDS = {
    "unit": PriceUnit("unit", [100.0, 0.01], 2),
    "stale": Stale("stale", 3, 8, 0.0),
    "split": Split("split", [2.0, 0.5]),
    "jump": RealJump("real jump", 1.0, 4.0, "move", 2.0),
}
FEATURES = ["overnight_return", "intraday_return", "high_return", "low_return"]


@pytest.fixture(scope="module")
def made():
    data = ready(BARS, features=FEATURES)
    judge = detector(data, autoencoder=small_autoencoder(4), score=score(kinds=KINDS, steps=40, copies=2))
    return judge.fit(*parts(BARS)), data


def evaluation(**others) -> PriceErrors:
    natural = NaturalTest(source=Stocks(table=table(adjusted=False)), splits=[["AAPL", "2005-02-28"]], moves=[])
    return PriceErrors(**{"per_thousand": 8.0, "leave_out": ["unit"], "natural": natural, **others})


def test_a_run_with_another_score_is_refused(made):
    judge, data = made
    other = judge.around(judge.autoencoder)
    other.score_function = Mahalanobis()
    with pytest.raises(ConfigError, match="score is Mahalanobis; experiment=price_errors measures score=planted"):
        evaluation().run(other, data, seed=0)


@pytest.mark.slow
def test_every_set_has_its_kinds_and_every_scorer_its_rows(made, tmp_path):
    judge, data = made
    weights = {name: value.clone() for name, value in judge.score_function.state_dict().items()}
    measured = evaluation().run(judge, data, seed=0)
    rows = pl.DataFrame(measured["errors"], infer_schema_length=None)
    kinds = {title: set(part["kind"]) for (title,), part in rows.group_by("set")}
    assert kinds[FIXED] == {"bad tick", "wick", "stale", "split", "unit", ALL}
    assert kinds[TAUGHT] == {"unit", "stale", "split", ALL}
    assert {"whole bar", "unit", ALL} < kinds[OTHER]
    assert kinds[UNTAUGHT] == {"unit"}
    assert rows.filter(pl.col("set") == FIXED).group_by("scorer").len()["len"].to_list() == [6] * 7
    assert set(rows.filter(pl.col("set") == UNTAUGHT)["scorer"]) == {HEAD, UNUSUAL, NO_MODEL}
    assert all(row["score_cpu_s"] > 0 for row in measured["clean"])
    assert {row["scorer"] for row in measured["clean"]} == set(rows["scorer"])
    unit = rows.filter(scorer=HEAD, set=FIXED, kind="unit")["average_precision"].item()
    assert unit > 0.4
    assert all(bool((judge.score_function.state_dict()[name] == value).all()) for name, value in weights.items())
    assert evaluation().metrics(measured)["errors/average_precision"] > 0.3
    (tmp_path / "0").mkdir()
    (tmp_path / "0/result.json").write_text(json.dumps({"price_errors": measured}))
    finish(tmp_path)
    text = (tmp_path / TEXT).read_text()
    assert f"{FIXED}: average precision" in text
    assert RULES_AND_HEAD in text
    assert "alarms per asset and year on clean bars" in text
    assert pl.read_csv(tmp_path / RESULTS).height == rows.height


def test_a_kind_to_leave_out_must_be_one_of_the_score(made):
    with pytest.raises(ConfigError, match=r"evaluation\.leave_out has 'wick'; it must be one of unit, stale, split"):
        evaluation(leave_out=["wick"])._left_out(made[0], {}, {}, {})


def test_a_stand_in_knows_nothing():
    nothing = NoAutoencoder(3)
    windows = ready(BARS, features=FEATURES[:3]).test_windows.gather(np.arange(4))
    codes = nothing.encode(windows)
    assert codes.shape == (4, 1)
    assert not nothing.decode(codes, 8).any()
    assert nothing.decode(codes, 8).shape == windows.shape


def test_a_rule_counts_as_much_as_it_is_right():
    class Silent:
        def fit(self, train, val):
            return self

        def score(self, bars):
            return np.full(bars.height, -3.0)

    bars = BARS.sort("asset", "timestamp")
    spoilt = bars.with_columns(
        pl.when(pl.int_range(pl.len()) == 40).then(pl.col("close") * 100).otherwise("close").alias("close")
    )
    error, nothing = np.zeros(bars.height, int), np.zeros(bars.height, int)
    error[40] = 1
    rarer = np.exp(-1)
    cases = {
        "an error that was planted": (error, error > 0, 2 * rarer),
        "a real move that was planted": (nothing, error > 0, rarer / (1 + rarer)),
        "a bar as it came": (nothing, nothing > 0, rarer / 2),
    }
    for labels, planted, odds in cases.values():
        copies = [(spoilt, labels, planted)]
        both = OnOneScale({"unit": UnitRatio(), "stale": StaleRun()}, Silent(), lambda _, made=copies: made, -1.0)
        both.fit(bars, bars)
        assert both.odds["unit"] == pytest.approx(np.log(odds))
        assert both.odds["stale"] == pytest.approx(-1)
        scores = both.score(spoilt)
        assert scores[40] == pytest.approx(max(-3.0, both.odds["unit"]), abs=0.1)
        assert (np.delete(scores, 40) == -3).all()


def test_the_report_has_a_table_for_each_set_of_errors():
    rows = [
        {"scorer": HEAD, "set": title, "kind": "wick", "average_precision": value, "event_f1": value}
        for title, value in ((FIXED, 0.9), (OTHER, 0.2))
    ]
    result = {"metrics": {}, "code_size": 16, "baselines": {"pca": {}, "mean": {}}, "price_errors": {"errors": rows}}
    shown = tables(result)
    assert shown[f"errors planted into the test part, {FIXED}, average precision"] == {HEAD: {"wick": 0.9}}
    assert shown[f"errors planted into the test part, {OTHER}, average precision"] == {HEAD: {"wick": 0.2}}
    # of a run before there was one by event
    assert shown[f"errors planted into the test part, {FIXED}, average precision by event"] == {HEAD: {"wick": None}}
