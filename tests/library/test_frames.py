"""Tables of pandas as yfinance makes them: columns of prices and tickers."""

from datetime import date

import polars as pl
import pytest

from refold.errors import DataError
from refold.library.frames import SINGLE_ASSET, FrameSource, to_polars
from tests.data.makers import table

pd = pytest.importorskip("pandas", reason="frames of pandas")


@pytest.fixture
def downloaded():
    """What yfinance.download returns of two tickers; the second has no bar on the first day."""
    columns = pd.MultiIndex.from_product([["Close", "Open"], ["X", "Y"]], names=["Price", "Ticker"])
    days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"], name="Date")
    return pd.DataFrame([[1.5, None, 1.0, None], [2.5, 7.0, 2.0, 6.0]], index=days, columns=columns)


def read(frame) -> pl.DataFrame:
    return FrameSource(to_polars(frame), table()).load().with_columns(pl.col("timestamp").cast(pl.Date))


BARS = [
    (date(2024, 1, 2), "X", 1.0, 1.5),
    (date(2024, 1, 3), "X", 2.0, 2.5),
    (date(2024, 1, 3), "Y", 6.0, 7.0),
]


def test_prices_above_tickers_and_tickers_above_prices(downloaded):
    assert read(downloaded).rows() == BARS
    assert read(downloaded.swaplevel(axis=1).sort_index(axis=1)).rows() == BARS


def test_a_part_of_the_columns_and_an_index_without_a_name(downloaded):
    assert read(downloaded[["Close"]]).rows() == [(day, asset, close) for day, asset, _, close in BARS]
    assert read(downloaded.rename_axis(None)).rows() == BARS


def test_one_level_stays_as_it_was(downloaded):
    flat = downloaded.xs("X", axis=1, level="Ticker")
    assert read(flat).rows() == [(day, SINGLE_ASSET, *rest) for day, asset, *rest in BARS if asset == "X"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: pd.concat([frame], keys=["z"], axis=1), "columns of 3 levels"),
        (lambda frame: frame.rename(columns={"Close": "foo"}), "one of prices and one of tickers"),
        (lambda frame: frame.reset_index(drop=True), "has no index of dates"),
    ],
)
def test_other_levels_are_named(downloaded, change, message):
    with pytest.raises(DataError, match=message):
        to_polars(change(downloaded))
