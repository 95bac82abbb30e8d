"""CSV files as they come: how they are packed and written, and those that vendors of market data hand out."""

import codecs
import gzip
import io
import logging
import zipfile
import zlib
from datetime import UTC, date, datetime

import polars as pl
import pytest

from refold.data.bars import cells
from refold.data.sources import Csv, Parquet
from refold.errors import DataError
from tests.data.makers import table

FLAT = "date,symbol,close\n2024-01-02,X,1.5\n2024-01-03,X,2.5\n"
BARS = [(date(2024, 1, 2), "X", 1.5), (date(2024, 1, 3), "X", 2.5)]


@pytest.fixture(autouse=True)
def _said_anew():
    cells.say.cache_clear()


def source(tmp_path, content: str | bytes, name: str = "prices.csv", **others) -> Csv:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    settings = {key: others.pop(key) for key in ("separator", "decimal", "thousands", "encoding") if key in others}
    return Csv(path=str(path), **{"separator": None, **settings}, table=table(**others))


def read(tmp_path, content: str | bytes, name: str = "prices.csv", **others) -> pl.DataFrame:
    """The bars of a file; read some rows at a time they are the same."""
    csv = source(tmp_path, content, name, **others)
    bars = csv.load()
    assert pl.concat(list(csv.batches())).equals(bars)
    return bars


# Packing and encoding -------------------------------------------------------------------------------------------------


def zipped(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, FLAT)
    return packed.getvalue()


def in_zstd(tmp_path) -> bytes:
    pl.read_csv(FLAT.encode(), infer_schema=False).lazy().sink_csv(tmp_path / "made.zst", compression="zstd")
    return (tmp_path / "made.zst").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + FLAT.encode(),
        FLAT.encode("utf-16"),
        codecs.BOM_UTF16_BE + FLAT.encode("utf-16-be"),
        gzip.compress(FLAT.encode(), mtime=0),
        zlib.compress(FLAT.encode()),
        zipped("prices.csv"),
        zipped("folder/", "folder/prices.csv"),
        FLAT.replace("\n", "\r\n").encode(),
        FLAT.replace(",", ";").encode("utf-16"),
        gzip.compress(FLAT.replace(",", "\t").encode(), mtime=0),
        FLAT.replace(",", "|").encode(),
        b'"date","symbol","close"\n"2024-01-02","X","1.5"\n"2024-01-03","X","2.5"\n',
    ],
)
def test_packed_and_encoded_files(tmp_path, content):
    assert read(tmp_path, content).rows() == BARS


def test_zstd(tmp_path):
    assert read(tmp_path, in_zstd(tmp_path)).rows() == BARS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped("a.csv", "b.csv"), "holds 2 files; a zip must hold one CSV file"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (gzip.compress(FLAT.encode(), mtime=0)[:-12], "prices.csv"),
        (b"\xff\xfe\x00", "is not UTF-16"),
    ],
)
def test_spoilt_packing_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content)
    assert "data.path is" in str(error.value)


LATIN = "date,symbol,close\n2024-01-02,M\u00fcller,1.5\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (LATIN.encode("latin-1"), "latin-1"),
        (gzip.compress(LATIN.encode("cp1252"), mtime=0), "cp1252"),
        (LATIN.encode("utf-16-le"), "utf-16-le"),
        (LATIN.encode(), None),
    ],
)
def test_an_encoding_that_is_named(tmp_path, content, encoding):
    assert read(tmp_path, content, encoding=encoding).row(0) == (date(2024, 1, 2), "M\u00fcller", 1.5)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (LATIN.encode("latin-1"), {}, r"it is not UTF-8; say how it is written with data\.source\.encoding"),
        (gzip.compress(LATIN.encode("latin-1"), mtime=0), {}, "it is not UTF-8"),
        (LATIN.replace("close", "\u00e9", 1).encode("latin-1"), {}, "it is not UTF-8"),
        (LATIN.encode("latin-1"), {"encoding": "utf-8"}, "it is not UTF-8"),
        (LATIN.encode("latin-1"), {"encoding": "ascii"}, r"it is not written in data\.source\.encoding: 'ascii'"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, settings, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, **settings)


@pytest.mark.parametrize("encoding", ["klingon", "base64", ""])
def test_an_encoding_that_does_not_exist_is_refused(tmp_path, encoding):
    with pytest.raises(ValueError, match=rf"data\.source\.encoding is '{encoding}'"):
        source(tmp_path, FLAT, encoding=encoding)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("date;close;volume\n2024-01-02;1,5;2.714.688.000\n", {}, (1.5, 2714688000.0)),
        ("date;close;volume\n2024-01-02;1.234,5;7\n", {}, (1234.5, 7.0)),
        ("date;close;volume\n2024-01-02;1 234,5;7\n", {}, (1234.5, 7.0)),
        ("date;close;volume\n2024-01-02;1'234.5;7\n", {}, (1234.5, 7.0)),
        ('date,close,volume\n2024-01-02,1.5,"2,714,688,000"\n', {}, (1.5, 2714688000.0)),
        ('date,close,volume\n2024-01-02,"1,234.50","1,234"\n', {}, (1234.5, 1234.0)),
        ("date;close;volume\n2024-01-02;1,234;7\n", {"decimal": ","}, (1.234, 7.0)),
        ("date;close;volume\n2024-01-02;1,234;7\n", {"decimal": "."}, (1234.0, 7.0)),
        ("date;close;volume\n2024-01-02;1,234;7\n", {"thousands": ","}, (1234.0, 7.0)),
        ("date,close,volume\n2024-01-02,1.234,7\n", {}, (1.234, 7.0)),
        ("date,close,volume\n2024-01-02,1.234,7\n", {"thousands": "."}, (1234.0, 7.0)),
        ("date,close,volume\n2024-01-02,1.5e3,-7\n", {}, (1500.0, -7.0)),
    ],
)
def test_marks_of_decimals_and_thousands(tmp_path, text, settings, expected):
    assert read(tmp_path, text, **settings).row(0)[2:] == expected


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("date;close\n2024-01-02;1,234\n", {}, r"'1,234', which may be 1234 or 1\.234; say data\.source\.decimal="),
        ('date,close\n2024-01-02,1.5\n2024-01-03,"1,23"\n', {}, "row 3, column 'close': '1,23' is not a number; if it"),
        ("date;close\n2024-01-02;1.5\n", {"decimal": ","}, "row 2, column 'close': '1.5' is not a number"),
        ("date;close\n2024-01-02;1,5,5\n", {"decimal": ","}, "'1,5,5' is not a number"),
        ("date;close\n2024-01-02;12,34,567.5\n", {}, "'12,34,567.5' is not a number"),
    ],
)
def test_numbers_that_do_not_fit_are_named(tmp_path, text, settings, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, **settings)


# Dates ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("20240102", date(2024, 1, 2), "read as dates, %Y%m%d"),
        ("202401021530", datetime(2024, 1, 2, 15, 30), "%Y%m%d%H%M"),
        ("20240102153059", datetime(2024, 1, 2, 15, 30, 59), "%Y%m%d%H%M%S"),
        ("1704209400", datetime(2024, 1, 2, 15, 30, tzinfo=UTC), "read as seconds since 1970, UTC"),
        ("1704209400123", datetime(2024, 1, 2, 15, 30, 0, 123000, tzinfo=UTC), "milliseconds"),
        ("1704209400123456", datetime(2024, 1, 2, 15, 30, 0, 123456, tzinfo=UTC), "microseconds"),
        ("631238400000", datetime(1990, 1, 2, tzinfo=UTC), "milliseconds"),
        ("2024.01.02 15:30", datetime(2024, 1, 2, 15, 30), None),
        ("2024/01/02", date(2024, 1, 2), None),
    ],
)
def test_dates_are_recognised_and_said(tmp_path, caplog, text, expected, said):
    with caplog.at_level(logging.INFO):
        bars = read(tmp_path, f"time,close\n{text},2\n")
    assert bars["timestamp"][0] == expected
    assert [said in line for line in caplog.messages] == ([True] if said else [])
    if text.isdigit():
        pl.DataFrame({"time": [int(text)], "close": [2.0]}).write_parquet(tmp_path / "bars.parquet")
        assert Parquet(path=str(tmp_path / "bars.parquet"), table=table()).load()["timestamp"][0] == expected


@pytest.mark.parametrize("text", ["1704209400123456789", "2024-01-02 15:30:00.123456789Z"])
def test_nanoseconds_are_kept(tmp_path, text):
    stamps = read(tmp_path, f"time,close\n{text},2\n")["timestamp"]
    assert stamps.dtype == pl.Datetime("ns", "UTC")
    assert stamps.dt.epoch("ns")[0] % 1_000_000_000 == 123_456_789


def test_nanoseconds_are_not_cut_in_silence(tmp_path):
    rows = "2024-01-02 15:30:00.5,1\n2024-01-02 15:30:00.123456700,2\n"
    with pytest.raises(DataError, match=r"row 3, column 'time': '2024-01-02 15:30:00.123456700'"):
        read(tmp_path, f"time,close\n{rows}")
    zeros = read(tmp_path, "time,close\n2024-01-02 15:30:00.5,1\n2024-01-02 15:30:00.123456000,2\n")
    assert zeros["timestamp"][1] == datetime(2024, 1, 2, 15, 30, 0, 123456)


def test_separator_dates_and_numbers_are_one_message(tmp_path):
    text = "date;symbol;close;volume\n13/01/2024;X;1.234,5;7\n14/01/2024;X;1.235,5;8\n"
    settings = {"separator": "|", "decimal": "."}
    with pytest.raises(DataError) as error:
        read(tmp_path, text, **settings)
    for part in (
        "has no date column",
        "data.source.separator=';' gives it the columns date, symbol, close, volume",
        "row 2, column 'date': '13/01/2024'",
        "data.source.table.timestamp_format='%d/%m/%Y'",
        "row 2, column 'close': '1.234,5' is not a number; it is one with data.source.decimal=','",
    ):
        assert part in str(error.value)
    mended = read(tmp_path, text, separator=";", decimal=",", thousands=".", timestamp_format="%d/%m/%Y")
    assert mended.row(0) == (date(2024, 1, 13), "X", 1234.5, 7.0)


def test_numbers_that_are_unclear_do_not_hide_dates_that_are_wrong(tmp_path):
    with pytest.raises(DataError, match=r"'1,234', which may be .*; and row 2, column 'date': '13/01/2024'"):
        read(tmp_path, "date;close\n13/01/2024;1,234\n")


@pytest.mark.parametrize(
    ("cells", "forms"),
    [
        (["13/01/2024", "14/01/2024"], "'%d/%m/%Y'"),
        (["01/13/2024 9:30", "01/14/2024 16:00"], "'%m/%d/%Y %H:%M'"),
        (["01/02/2024", "02/02/2024"], "'%d/%m/%Y' or data.source.table.timestamp_format='%m/%d/%Y'"),
        (["Jan 2, 2024", "Feb 2, 2024"], "'%b %d, %Y'"),
        (["02-JAN-24", "03-JAN-24"], "'%d-%b-%y'"),
        (["13.01.2024 15:30:00", "14.01.2024 15:30:00"], "'%d.%m.%Y %H:%M:%S'"),
    ],
)
def test_the_form_of_other_dates_is_named_and_reads_them(tmp_path, cells, forms):
    text = "date;close\n" + "".join(f"{cell};1.5\n" for cell in cells)
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert f"it is a date with data.source.table.timestamp_format={forms}" in str(error.value)
    form = forms.split("'")[1]
    assert read(tmp_path, text, timestamp_format=form)["timestamp"].null_count() == 0


# Headers --------------------------------------------------------------------------------------------------------------


def test_an_index_without_a_name_is_left_out_and_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        bars = read(tmp_path, ",date,A\n0,2024-01-02,1.5\n1,2024-01-03,2.5\n")
    assert bars.rows() == [(date(2024, 1, 2), "A", 1.5), (date(2024, 1, 3), "A", 2.5)]
    assert caplog.messages == [f"{tmp_path}/prices.csv: column 1 without a name is not used"]


def test_an_index_of_dates_without_a_name_is_the_time(tmp_path):
    assert read(tmp_path, ",X\n2024-01-02,1.5\n2024-01-03,2.5\n").rows() == BARS


def test_a_name_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="has the column 'AAPL' 2 times; rename all but one"):
        read(tmp_path, "date,AAPL,AAPL\n2024-01-02,1,2\n")


def test_an_adjusted_close_that_is_not_used_is_said(tmp_path, caplog):
    text = "Date,Close,Adj Close\n2024-01-02,2,1\n"
    with caplog.at_level(logging.INFO):
        read(tmp_path, text)
        read(tmp_path, text, name="other.csv", adjusted=True)
    (line,) = caplog.messages
    assert "prices.csv: column 'Adj Close' is not used; data.source.table.adjusted=true" in line


# Vendors: as their documentation and downloads show them --------------------------------------------------------------

YFINANCE_ONE = """Price,Close,High,Low,Open,Volume
Ticker,X,X,X,X,X
Date,,,,,
2024-01-02,1.5,2,1,1.25,100
2024-01-03,2.5,3,2,2.25,200
"""
YFINANCE_MANY = """Price,Close,Close,Volume,Volume
Ticker,X,Y,X,Y
Date,,,,
2024-01-02,1.5,,100,
2024-01-03,2.5,7,200,8
"""
YFINANCE_BY_TICKER = """Ticker,X,X,Y,Y
Price,Close,Volume,Close,Volume
Date,,,,
2024-01-02,1.5,100,,
2024-01-03,2.5,200,7,8
"""
YFINANCE_TWO_ROWS = """Date,Close,Close,Volume,Volume
,X,Y,X,Y
2024-01-02,1.5,,100,
2024-01-03,2.5,7,200,8
"""


def test_yfinance_of_one_ticker(tmp_path):
    bars = read(tmp_path, YFINANCE_ONE)
    assert bars.columns == ["timestamp", "asset", "open", "high", "low", "close", "volume"]
    assert bars.rows()[0] == (date(2024, 1, 2), "X", 1.25, 2.0, 1.0, 1.5, 100.0)
    assert bars.height == 2


@pytest.mark.parametrize("text", [YFINANCE_MANY, YFINANCE_BY_TICKER, YFINANCE_TWO_ROWS])
def test_yfinance_of_several_tickers(tmp_path, text):
    assert read(tmp_path, text).rows() == [
        (date(2024, 1, 2), "X", 1.5, 100.0),
        (date(2024, 1, 3), "X", 2.5, 200.0),
        (date(2024, 1, 3), "Y", 7.0, 8.0),  # Y has no bar on the first day
    ]
    with pytest.raises(DataError, match=r"row 5, column 'Close': 'x7'|row 4, column 'Close': 'x7'"):
        read(tmp_path, text.replace(",7,", ",x7,"))


BAR = (1.25, 2.0, 1.0, 1.5, 100.0)
VENDORS = {
    "yahoo": ("Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02,1.25,2,1,1.5,1.4,100\n", {}, date(2024, 1, 2)),
    "stooq": ("Date,Open,High,Low,Close,Volume\n2024-01-02,1.25,2,1,1.5,100\n", {}, date(2024, 1, 2)),
    "stooq, daily of a market": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "X.US,D,20240102,000000,1.25,2,1,1.5,100,0\n",
        {},
        date(2024, 1, 2),
    ),
    "stooq, hours of a market": (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "X.US,60,20240102,153000,1.25,2,1,1.5,100,0\n",
        {},
        datetime(2024, 1, 2, 15, 30),
    ),
    "Alpha Vantage": ("timestamp,open,high,low,close,volume\n2024-01-02,1.25,2,1,1.5,100\n", {}, date(2024, 1, 2)),
    "Alpha Vantage, adjusted": (
        "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
        "2024-01-02,1.25,2,1,1.5,1.5,100,0.0000,1.0\n",
        {"adjusted": True},
        date(2024, 1, 2),
    ),
    "Alpha Vantage, minutes": (
        "timestamp,open,high,low,close,volume\n2024-01-02 15:30:00,1.25,2,1,1.5,100\n",
        {},
        datetime(2024, 1, 2, 15, 30),
    ),
    "Polygon, flat files": (
        "ticker,volume,open,close,high,low,window_start,transactions\nX,100,1.25,1.5,2,1,1704209400000000000,9\n",
        {},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Polygon, aggregates": (
        "v,vw,o,c,h,l,t,n\n100,1.4,1.25,1.5,2,1,1704209400000,9\n",
        {},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Databento": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "2024-01-02T15:30:00.000000000Z,33,2,1,1.25,2,1,1.5,100,X\n",
        {},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Databento, fixed point": (
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
        "1704209400000000000,33,2,1,1250000000,2000000000,1000000000,1500000000,100,X\n",
        {"price_scale": 1e-9},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Binance": (
        "1704209400000,1.25,2,1,1.5,100,1704209459999,140,9,50,70,0\n",
        {},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Binance, from 2025 on": (
        "1735831800000000,1.25,2,1,1.5,100,1735831859999999,140,9,50,70,0\n",
        {},
        datetime(2025, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Binance, futures": (
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,"
        "ignore\n1704209400000,1.25,2,1,1.5,100,1704209459999,140,9,50,70,0\n",
        {},
        datetime(2024, 1, 2, 15, 30, tzinfo=UTC),
    ),
    "Kraken": ("1704209400,1.25,2,1,1.5,100,9\n", {}, datetime(2024, 1, 2, 15, 30, tzinfo=UTC)),
    "MetaTrader 4": ("2024.01.02,15:30,1.25,2,1,1.5,100\n", {}, datetime(2024, 1, 2, 15, 30)),
    "MetaTrader 5": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2024.01.02\t15:30:00\t1.25\t2\t1\t1.5\t7\t100\t3\n",
        {},
        datetime(2024, 1, 2, 15, 30),
    ),
    "MetaTrader 5, daily": (
        "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n2024.01.02\t1.25\t2\t1\t1.5\t7\t100\t3\n",
        {},
        date(2024, 1, 2),
    ),
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_files_of_vendors_are_read(tmp_path, vendor):
    text, settings, when = VENDORS[vendor]
    bars = read(tmp_path, text, name="X.csv", **settings)
    assert bars.columns == ["timestamp", "asset", "open", "high", "low", "close", "volume"]
    (row,) = bars.rows()
    assert row[0] == when
    assert row[1].startswith("X")
    assert row[2:] == pytest.approx(BAR)


def test_fixed_point_prices_of_databento_are_named(tmp_path, caplog):
    text, settings, _ = VENDORS["Databento, fixed point"]
    with caplog.at_level(logging.INFO):
        read(tmp_path, text, name="X.csv")
        read(tmp_path, text, name="Y.csv", **settings)
    (line,) = [line for line in caplog.messages if "fixed-point" in line]
    assert "X.csv: the prices are Databento's" in line
    assert "data.source.table.price_scale=1e-9" in line
    text, _, _ = VENDORS["Databento"]
    caplog.clear()
    read(tmp_path, text, name="Z.csv")
    assert not [line for line in caplog.messages if "fixed-point" in line]


def test_numbers_without_a_header_that_are_no_bars_are_not_read_as_bars(tmp_path):
    with pytest.raises(DataError, match="has no date column; its columns are '1704209400'"):
        read(tmp_path, 2 * "1704209400,1.25,1,2,1.5,100,9\n")
