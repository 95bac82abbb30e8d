import gzip
import importlib.metadata
import sqlite3
from contextlib import closing
from datetime import date, datetime

import polars as pl
import pytest

from refold.data.bars.entries import DAILY
from refold.data.sources import Csv, Parquet, SkfolioPanel, Sql, Stocks, Synthetic
from refold.errors import DataError
from tests.data.makers import checks, random_bars, ready, table


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


# Tables of every source -----------------------------------------------------------------------------------------------

LONG = pl.DataFrame(
    {
        "date": [date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 2), date(2020, 1, 3)],
        "symbol": ["X", "X", "Y", "Y"],
        "close": [1.0, 2.0, 3.0, 4.0],
        "note": ["a", "b", "c", "d"],
    }
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 2.0, 3.0, 4.0]),
        ({"assets": ["Y"]}, [3.0, 4.0]),
        ({"start": "2020-01-03"}, [2.0, 4.0]),
        ({"end": "2020-01-03"}, [1.0, 3.0]),
        ({"start": "2020-01-02T12:00", "assets": ["X"]}, [2.0]),
        ({"price_scale": 0.01}, [0.01, 0.02, 0.03, 0.04]),
    ],
)
def test_assets_dates_and_scale_by_config(tmp_path, settings, expected):
    LONG.write_csv(tmp_path / "bars.csv")
    LONG.write_parquet(tmp_path / "bars.parquet")
    for bars in (
        csv(tmp_path / "bars.csv", **settings).load(),
        Parquet(path=str(tmp_path / "bars.parquet"), table=table(**settings)).load(),
    ):
        assert bars["close"].to_list() == pytest.approx(expected)
        assert bars.columns == ["timestamp", "asset", "close"]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Decimal(18, 2), pl.Float32, pl.String])
def test_prices_of_any_number_type(tmp_path, dtype):
    LONG.with_columns(pl.col("close").cast(pl.Int64).cast(dtype)).write_parquet(tmp_path / "bars.parquet")
    bars = Parquet(path=str(tmp_path / "bars.parquet"), table=table()).load()
    assert bars["close"].to_list() == [1.0, 2.0, 3.0, 4.0]
    assert bars["close"].dtype == pl.Float64


def test_nothing_left_says_what_there_is(tmp_path):
    LONG.write_csv(tmp_path / "bars.csv")
    with pytest.raises(
        DataError, match=r"no bars of data\.source\.table\.assets \['Z'\].*it has 'X', 'Y' from 2020-01-02"
    ):
        csv(tmp_path / "bars.csv", assets=["Z"]).load()


def test_wrong_settings_of_a_table_are_named():
    with pytest.raises(ValueError, match=r"data\.source\.table\.start is 'soon'; it must be a date"):
        table(start="soon")
    with pytest.raises(ValueError, match=r"data\.source\.table\.price_scale is 0; it must be greater than 0"):
        table(price_scale=0)


@pytest.mark.parametrize("path", ["bars/*.parquet", "bars"])
def test_many_parquet_files_are_one_table_in_order(tmp_path, path):
    for symbol in ("Y", "X"):
        folder = tmp_path / "bars"
        folder.mkdir(exist_ok=True)
        LONG.filter(pl.col("symbol") == symbol).write_parquet(folder / f"{symbol}.parquet")
    bars = Parquet(path=str(tmp_path / path), table=table()).load()
    assert bars["asset"].to_list() == ["X", "X", "Y", "Y"]


def test_folder_names_of_a_partitioned_table_are_columns(tmp_path):
    for symbol in ("X", "Y"):
        folder = tmp_path / "bars" / f"symbol={symbol}"
        folder.mkdir(parents=True)
        LONG.filter(pl.col("symbol") == symbol).drop("symbol").write_parquet(folder / "0.parquet")
    bars = Parquet(path=str(tmp_path / "bars"), table=table(assets=["Y"])).load()
    assert bars.rows() == [(date(2020, 1, 2), "Y", 3.0), (date(2020, 1, 3), "Y", 4.0)]


def test_only_what_is_kept_is_read(tmp_path):
    LONG.write_parquet(tmp_path / "bars.parquet")
    plan = (
        table(start="2020-01-03", assets=["Y"]).push_down(pl.scan_parquet(tmp_path / "bars.parquet"), "bars").explain()
    )
    assert "PROJECT 3/4 COLUMNS" in plan
    assert "SELECTION" in plan


def test_time_zone_of_parquet_is_kept(tmp_path):
    stamps = pl.datetime_range(datetime(2020, 1, 2), datetime(2020, 1, 4), "1d", time_zone="Asia/Tokyo", eager=True)
    pl.DataFrame({"time": stamps, "close": [1.0, 2.0, 3.0]}).write_parquet(tmp_path / "bars.parquet")
    bars = Parquet(path=str(tmp_path / "bars.parquet"), table=table(start="2020-01-03")).load()
    assert bars["timestamp"].dtype == pl.Datetime("us", "Asia/Tokyo")
    assert bars["close"].to_list() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not parquet at all", "cannot be read as Parquet"),
        ("folder", "holds no .parquet"),
    ],
)
def test_spoilt_parquet_is_named(tmp_path, content, message):
    path = tmp_path / "bars.parquet"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.path is .*" + message):
        Parquet(path=str(path), table=table()).load()


@pytest.fixture
def database(tmp_path):
    pytest.importorskip("connectorx", reason="the connector of data=sql is not installed")
    path = tmp_path / "bars.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table bars (date text, symbol text, close real)")
        rows = [(str(day), symbol, close) for day, symbol, close, _ in LONG.iter_rows()]
        connection.executemany("insert into bars values (?, ?, ?)", rows)
        connection.commit()
    return f"sqlite://{path}"


def test_a_query_to_a_real_database(database):
    bars = Sql(uri=database, query="select * from bars where symbol = 'Y' order by date", table=table()).load()
    assert bars.rows() == [(date(2020, 1, 2), "Y", 3.0), (date(2020, 1, 3), "Y", 4.0)]


@pytest.mark.parametrize(
    ("query", "message"),
    [("select * from nothing", "the query failed: .*nothing"), ("select * from bars where 1 = 0", "has no rows")],
)
def test_a_query_that_fails_is_named(database, query, message):
    with pytest.raises(DataError, match=message):
        Sql(uri=database, query=query, table=table()).load()


@pytest.mark.parametrize("end", ["x", "?password=Tr0ub4dor"])
def test_no_empty_database_is_made_under_a_wrong_name(database, tmp_path, end):
    with pytest.raises(DataError, match=r"there is no file .*: sqlite:// and the path of a database") as refusal:
        Sql(uri=database + end, query="select * from bars", table=table()).load()
    assert "Tr0ub4dor" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bars.db"]


def test_a_password_is_not_shown():
    source = Sql(uri="postgresql://me:secret@nowhere.invalid/db", query="select 1", table=table())
    assert "secret" not in str(source)
    assert "me:***@nowhere" in str(source)


def test_panel_of_skfolio():
    try:
        bars = SkfolioPanel(table=table()).load()
    except DataError:
        pytest.skip("skfolio is not installed")
    assert bars.height == 20 * 8313
    assert bars["asset"].n_unique() == 20


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    with pytest.raises(DataError, match=r"skfolio package, which is not installed; .*pip install --no-deps skfolio"):
        SkfolioPanel(table=table()).load()


def simulated(**others) -> Synthetic:
    settings = {"assets": 3, "bars": 4000, "seed": 0, "volatility": 0.015, "anomalies": 4.0, "clean_fraction": 0.5}
    return Synthetic(**{**settings, **others})


def test_simulated_returns_are_those_of_markets():
    bars = simulated(anomalies=0.0, bars=20_000).load()
    returns = bars.with_columns(r=pl.col("close").log().diff().over("asset")).drop_nulls()["r"]
    # standard error of a GARCH sample's deviation is a few per cent at 60,000 bars
    assert returns.std() == pytest.approx(0.015, rel=0.1)
    assert returns.kurtosis() > 2  # a normal has 0
    squares = returns.pow(2)
    assert pl.select(pl.corr(squares[:-1], squares[1:])).item() > 0.05
    assert checks().run(bars).table.filter(pl.col("check") != "split_like").height == 0  # OHLC in order, above 0


def test_simulated_anomalies_are_where_the_labels_say():
    source = simulated(anomalies=10.0)
    labels, bars = source.labels(), source.load()
    clean = simulated(anomalies=10.0, clean_fraction=1.0).load()
    assert set(labels["kind"]) == {"bad_tick", "stale_quote", "volatility_burst"}
    assert labels["timestamp"].min() > bars["timestamp"].unique().sort()[1999]
    stale = bars.join(labels.filter(pl.col("kind") == "stale_quote"), on=["timestamp", "asset"])
    assert (stale["high"] == stale["low"]).all()
    first_half = bars.filter(pl.col("timestamp") < labels["timestamp"].min())
    assert (first_half["high"] > first_half["low"]).all()
    assert clean.height == bars.height
    assert simulated(anomalies=10.0).load().equals(bars)
    assert not simulated(seed=1).load().equals(bars)


# Features that are chosen from the columns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "features", "said"),
    [
        ({}, DAILY, "volume_20; data.features names others"),
        ({"volume": None}, DAILY[:-1], "trailing_volatility_20; data.features"),
        (
            {"volume": 0.0},
            DAILY[:-1],
            "trailing_volatility_20; not used: volume, which is 0 in some bars; data.features",
        ),
        ({"open": None, "high": None, "low": None}, ("log_return",), "log_return; not used: volume; data.features"),
        ({"open": None, "volume": None}, ("log_return",), "log_return; not used: high, low; data.features"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_features_follow_the_columns(tmp_path, caplog, ending, change, features, said):
    bars = random_bars([300, 290]).drop(name for name, value in change.items() if value is None)
    bars = bars.with_columns(pl.lit(value).alias(name) for name, value in change.items() if value is not None)
    path = tmp_path / f"bars.{ending}"
    bars.write_csv(path) if ending == "csv" else bars.write_parquet(path)
    source = csv(path) if ending == "csv" else Parquet(path=str(path), table=table())
    with caplog.at_level("INFO"):
        data = ready(pl.DataFrame(), source=source, features=None)
    assert tuple(data.feature_names) == tuple(features)
    (line,) = [line for line in caplog.messages if "chosen from the columns" in line]
    assert said in line
