"""The baselines of prediction, against plain formulas."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as PlainRidge

from refold.scoring.forecasts import LastValue, MeanAhead, Ridge
from tests.data.makers import checks, random_bars, ready, with_value


@pytest.fixture(scope="module")
def data():
    bars = with_value(random_bars([150, 150]), [*range(20, 150, 19)], "close", None)
    return ready(bars, checks=checks(missing_value="mask"), max_masked=3, horizon=2)


def test_the_last_value_is_that_of_the_last_present_bar():
    windows, mask = torch.randn(3, 4, 2), torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    expected = torch.stack([windows[0, 3], windows[1, 2], windows[2, 0]]).unsqueeze(1).expand(-1, 5, -1)
    assert torch.equal(LastValue(5).predict(windows, mask), expected)
    assert torch.equal(LastValue(5).predict(windows, None)[:, 4], windows[:, 3])


def test_the_mean_is_that_of_the_present_bars_of_each_step(data):
    windows = data.train_windows
    bars, mask = windows.ahead(np.arange(len(windows)))
    assert not mask.all()
    made = MeanAhead().fit(windows).predict(windows.gather([0, 1]), None)
    for step in range(2):
        wanted = bars[mask[:, step], step].double().mean(dim=0)
        torch.testing.assert_close(made[:, step], wanted.expand(2, -1))


def test_the_regression_is_the_one_of_scikit_learn_on_windows_with_all_bars_after_them(data):
    windows = data.train_windows
    index = np.arange(len(windows))
    bars, mask = windows.ahead(index)
    inputs, targets = windows.gather(index).flatten(1), bars.flatten(1)
    there = mask.all(dim=1)
    plain = PlainRidge(alpha=10.0).fit(inputs[there].double(), targets[there].double())
    made = Ridge((10.0,)).fit(windows).predict(windows.gather(index), None)
    np.testing.assert_allclose(made.flatten(1), plain.predict(inputs.double()), atol=1e-9)
