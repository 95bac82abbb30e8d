import gzip
from datetime import date, datetime

import polars as pl
import pytest

from refold.data.sources import Csv, Stocks
from refold.errors import DataError
from tests.data.makers import table


def csv(path, separator: str = ",", **others) -> Csv:
    return Csv(path=str(path), separator=separator, table=table(**others))


def read(tmp_path, text: str, **others) -> pl.DataFrame:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    return csv(path, **others).load()


def test_embedded_stocks_are_what_their_readme_says():
    bars = Stocks(table=table()).load()
    counts = dict(bars.group_by("asset").len().iter_rows())
    assert counts == {"AAPL": 3270, "FB": 196, "GOOG": 2148, "IBM": 3270, "MSFT": 3270}
    assert bars["timestamp"].dtype == pl.Date
    assert bars.filter(pl.col("low") > pl.min_horizontal("open", "close")).height == 0
    returns = pl.col("close").log().diff().over("asset")
    steep = bars.with_columns(returns.alias("r")).filter(pl.col("r") < -0.55).select("asset", "timestamp")
    assert set(steep.iter_rows()) == {
        ("AAPL", date(2000, 6, 21)),
        ("AAPL", date(2000, 9, 29)),
        ("AAPL", date(2005, 2, 28)),
        ("MSFT", date(2003, 2, 18)),
    }


def test_adjusting_removes_the_splits_and_leaves_the_crash_and_the_traded_value():
    plain, adjusted = Stocks(table=table()).load(), Stocks(table=table(adjusted=True)).load()
    returns = adjusted["close"].log().diff()
    split, crash = date(2005, 2, 28), date(2000, 9, 29)
    at = (adjusted["asset"] == "AAPL") & adjusted["timestamp"].is_in([split, crash])
    assert returns.filter(at).to_list() == pytest.approx([-0.73, 0.01], abs=0.01)
    assert (adjusted["close"] * adjusted["volume"]).to_numpy() == pytest.approx(
        (plain["close"] * plain["volume"]).to_numpy()
    )


def test_wide_file(tmp_path):
    bars = read(tmp_path, "Date,A,B\n2020-01-02,1.5,\n2020-01-03,2,7\n")
    assert bars.rows() == [
        (date(2020, 1, 2), "A", 1.5),
        (date(2020, 1, 3), "A", 2.0),
        (date(2020, 1, 3), "B", 7.0),  # the empty cell is no bar
    ]


def test_long_file_with_usual_names(tmp_path):
    bars = read(tmp_path, "Symbol,Date,Adj Close,Close,Open\nX,2020-01-02,1,2,3\n")
    assert bars.to_dicts() == [{"timestamp": date(2020, 1, 2), "asset": "X", "open": 3.0, "close": 2.0}]


def test_long_file_with_names_by_config(tmp_path):
    text = "wann;wer;letzter\n02.01.2020;X;2\n"
    columns = {"timestamp": "wann", "asset": "wer", "close": "letzter"}
    bars = read(tmp_path, text, columns=columns, separator=";", timestamp_format="%d.%m.%Y")
    assert bars.rows() == [(date(2020, 1, 2), "X", 2.0)]


def test_long_file_of_one_asset_is_named_after_the_file(tmp_path):
    assert read(tmp_path, "date,close\n2020-01-02,2\n").rows() == [(date(2020, 1, 2), "prices", 2.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-02", pl.Date),
        ("2020-01-02 10:30", pl.Datetime("us")),
        ("2020-01-02T10:30:15", pl.Datetime("us")),
        ("2020-01-02T10:30:15.250", pl.Datetime("us")),
        ("2020-01-02T10:30:15Z", pl.Datetime("us", "UTC")),
        ("2020-01-02T10:30:15+02:00", pl.Datetime("us", "UTC")),
        ("2020-01-02 10:30-05:00", pl.Datetime("us", "UTC")),
    ],
)
def test_iso_timestamps(tmp_path, text, expected):
    stamps = read(tmp_path, f"date,close\n{text},2\n")["timestamp"]
    assert stamps.dtype == expected
    assert stamps[0].isoformat()[:10] == "2020-01-02"


def test_offsets_are_kept_as_moments(tmp_path):
    bars = read(tmp_path, "date,close\n2020-01-02T10:30:00+02:00,2\n2020-01-02T10:30:00-05:00,2\n")
    hours = [stamp.hour for stamp in bars["timestamp"]]
    assert hours == [8, 15]


def test_compressed_file(tmp_path):
    path = tmp_path / "prices.csv.gz"
    path.write_bytes(gzip.compress(b"date,close\n2020-01-02T00:00,2\n"))
    assert csv(path).load().rows() == [(datetime(2020, 1, 2), "prices", 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("date,close\n", "has no rows"),
        ("day,close\n2020-01-02,1\n", "has no date column; its columns are 'day', 'close'"),
        ("date,close\n2020-01-02,1\n2020-01-03,twelve\n", "row 3, column 'close': 'twelve' is not a number"),
        ("date,close\n02/01/2020,1\n", "row 2, column 'date': '02/01/2020' is not an ISO 8601 date"),
        ("date,close\n2020-01-02,1\n2020-02-30,1\nx,1\n", "row 3, column 'date': '2020-02-30' is not an ISO 8601 date"),
        ("date,A\n2020-01-02,1\n2020-01-03,1;5\n", "row 3, column 'A': '1;5' is not a number"),
        ("date\n2020-01-02\n", "has only the date column"),
        ("date,symbol\n2020-01-02,X\n", "has no prices"),
        ("date,timestamp,close\n2020-01-02,2020-01-02,1\n", "has date and timestamp; name one with"),
        ("date,close\n2020-01-02,1,2\n", "is not a table separated by ','"),
    ],
)
def test_spoilt_files_are_named(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert "prices.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"data\.path is .* there is no such file"):
        csv(tmp_path / name).load()


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_bytes(b"date,close\n\xff\xfe\x00\x01,1\n")
    with pytest.raises(DataError, match=r"prices\.csv"):
        csv(path).load()


def test_a_chosen_column_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"data\.source\.table\.columns\.close is 'last'; .* has 'date', 'close'"):
        read(tmp_path, "date,close\n2020-01-02,2\n", columns={"close": "last"})


def test_adjusting_needs_an_adjusted_close(tmp_path):
    with pytest.raises(DataError, match=r"data\.source\.table\.adjusted is true; .* has no adjusted close"):
        read(tmp_path, "date,close\n2020-01-02,2\n", adjusted=True)
