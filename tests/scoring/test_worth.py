"""What a verdict is worth: planted errors are counted once each, and those that are flagged."""

import numpy as np
import pytest

from refold.report.summary import worth_words
from refold.scoring.worth import measure_worth
from tests.data.makers import random_bars, ready
from tests.scoring.test_detector import detector, parts, small_autoencoder

BARS = random_bars([900, 900], seed=5)
FEATURES = ["overnight_return", "intraday_return", "high_return", "low_return"]


@pytest.fixture(scope="module")
def made():
    data = ready(BARS, features=FEATURES)
    return detector(data, autoencoder=small_autoencoder(4)).fit(*parts(BARS))


def test_errors_that_pass_the_levels_are_counted(made):
    bars = parts(BARS)[1]
    worth = measure_worth(made, bars, seed=0)
    assert worth == measure_worth(made, bars, seed=0)
    assert worth["verdict"] == "unusual"
    assert 5 <= worth["errors"] <= 20
    assert 0 < worth["flagged"] <= worth["errors"]
    assert 0 < worth["average_precision"] <= 1
    level, made.threshold.level = made.threshold.level, np.inf
    nothing = measure_worth(made, bars, seed=0)
    made.threshold.level = level
    assert (nothing["flagged"], nothing["errors"]) == (0, worth["errors"])
    words = worth_words({**worth, "flagged": 3, "errors": 7})
    assert "unusual: 3 of 7 errors planted into a copy of test are flagged" in words
    assert "named: refold score ... beside=planted" in words


def test_where_nothing_can_be_planted_nothing_is_said(made):
    few = BARS.group_by("asset", maintain_order=True).head(3)
    assert measure_worth(made, few, seed=0) is None
