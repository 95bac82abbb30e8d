import numpy as np
import polars as pl
import pytest
import torch

from refold.data import to_prices
from refold.errors import DataError
from tests.data.makers import checks, random_bars, ready, with_value

OHLCS = ["open", "high", "low", "close"]
OHLC = ["overnight_return", "high_return", "low_return", "log_return"]


@pytest.mark.parametrize(
    "names", [OHLC, ["overnight_return", "intraday_return"], ["log_return"], ["high_return", "window_log_price"]]
)
def test_prices_come_back(names):
    bars = random_bars([200, 150])
    data = ready(bars, features=names)
    windows = data.test_windows
    index = np.arange(len(windows))
    values = data.scaler.inverse_transform(windows.gather(index))
    prices = to_prices(values, names, windows.last_close(index), windows.first_close(index))
    table = {(a, np.datetime64(t)): row for t, a, *row in bars.select("timestamp", "asset", *OHLCS).iter_rows()}
    expected = {name for name, feature in zip(OHLCS, OHLC, strict=True) if feature in names} | {"close"}
    assert set(prices) == expected
    for name, values in prices.items():
        column = OHLCS.index(name)
        truth = [
            [table[asset, stamp][column] for stamp in stamps]
            for asset, stamps in zip(windows.assets(index), windows.timestamps(index), strict=True)
        ]
        # float32 features of size 1e-2 are right to 1e-9, and eight of them add up
        assert torch.allclose(values, torch.tensor(truth, dtype=torch.float64), rtol=1e-6)


def test_levels_of_a_window_are_told_by_its_first_present_bar():
    bars = with_value(random_bars([100]), [20], "close", None)
    settings = {"features": ["window_log_price"], "checks": checks(missing_value="mask"), "max_masked": 2}
    data = ready(bars, **settings)
    windows = data.train_windows
    index = np.arange(len(windows))
    assert not windows.mask(index)[:, 0].all()
    values, mask = data.scaler.inverse_transform(windows.gather(index)), windows.mask(index)
    close = to_prices(values, ["window_log_price"], windows.last_close(index), windows.first_close(index))["close"]
    truth = torch.from_numpy(bars["close"].to_numpy()[windows.rows(index)])
    assert torch.allclose(close[mask], truth[mask], rtol=1e-6)


def test_levels_alone_do_not_tell_a_price():
    with pytest.raises(
        DataError, match=r"data\.features is \[window_log_price\]; .* the close of the window's first bar"
    ):
        to_prices(torch.zeros(1, 4, 1), ["window_log_price"], torch.ones(1))


def test_features_that_do_not_tell_the_close_are_refused():
    with pytest.raises(DataError, match=r"data\.features is \[parkinson_range\]; prices follow from log_return"):
        to_prices(torch.zeros(1, 4, 1), ["parkinson_range"], torch.ones(1))


def test_close_before_the_first_bar_of_an_asset_is_not_known():
    data = ready(random_bars([100, 100]), features=["intraday_return"])
    starts = data.train_windows.starts(np.arange(len(data.train_windows)))
    closes = data.train_windows.last_close(np.arange(len(starts)))
    assert torch.equal(closes.isnan(), torch.from_numpy(np.isin(starts, [0, 100])))
    bars = data.source.load()["close"].cast(pl.Float32)
    assert closes[1].item() == bars[int(starts[1]) - 1]
