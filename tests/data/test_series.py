"""Tables of any numbers: which columns are read, and what becomes features of them."""

import logging

import numpy as np
import polars as pl
import pytest

from refold.data.bars.cells import say
from refold.data.bars.entries import find_all
from refold.data.sources import AnyTable
from refold.errors import DataError
from tests.data.makers import checks, ready, table

ROWS = 400


def sensors(rows: int = ROWS, **others: pl.Series) -> pl.DataFrame:
    """Two sensors, negative values among them, a second apart."""
    noise = np.random.default_rng(0).normal(size=(rows, 2))
    times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 2), "1s", eager=True).head(rows)
    return pl.DataFrame({"time": times, "Pressure": noise[:, 0], "Volume RateRMS": noise[:, 1], **others})


def source(path, **settings) -> AnyTable:
    own = {"uri": None, "query": "", "separator": None, "decimal": None, "thousands": None, "encoding": None}
    return AnyTable(path=str(path), **own, sheet=None, table=table(kind="series", **settings))


def series(frame: pl.DataFrame, path, features=None, table=None, **settings):
    """A data module over a frame that was written as CSV or Parquet."""
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    settings = {"checks": checks(kind="series"), **settings}
    return ready(pl.DataFrame(), source=source(path, **(table or {})), features=features, **settings)


@pytest.mark.parametrize("name", ["sensors.csv", "sensors.parquet"])
def test_every_column_of_numbers_is_a_feature_as_it_is(tmp_path, name):
    data = series(sensors(), tmp_path / name)
    assert data.feature_names == ["Pressure", "Volume RateRMS"]
    raw = data.scaler.inverse_transform(data.train_windows.gather(np.array([0])))[0]
    np.testing.assert_allclose(raw[:, 0], sensors()["Pressure"][:8], rtol=1e-5)


def test_pieces_give_what_the_table_at_once_gives(tmp_path):
    modules = [
        series(sensors(), tmp_path / "sensors.parquet", cache=cache) for cache in (None, str(tmp_path / "cache"))
    ]
    again = series(sensors(), tmp_path / "sensors.parquet", cache=str(tmp_path / "cache"))
    first, second, third = (data.train_windows.gather(np.arange(20)) for data in (*modules, again))
    assert (first == second).all()
    assert (first == third).all()
    assert modules[0].feature_names == again.feature_names


def test_rows_without_a_time_are_numbered(tmp_path, caplog):
    say.cache_clear()
    with caplog.at_level(logging.INFO):
        data = series(sensors().select(Data="Pressure", Level=pl.lit(0)), tmp_path / "tsb.csv")
    assert "has no time column: its rows are numbered" in caplog.text
    assert str(data.train_windows.timestamps(np.array([0]))[0, 5]) == "1970-01-01T00:00:05.000000"
    assert data.feature_names == ["Data"]  # the other column is constant
    assert "constant on the training rows: Level" in caplog.text


def test_dates_of_another_form_are_the_time_and_a_message_says_what_reads_them(tmp_path):
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2021, 3, 1), eager=True).dt.strftime("%d.%m.%Y")
    rows = [f"{day};{n % 7},{n % 10}5" for n, day in enumerate(days)]
    (tmp_path / "werte.csv").write_text("\n".join(["Datum;Wert", *rows]))
    with pytest.raises(DataError, match=r"column 'Datum'.* it is a date with .*timestamp_format='%d.%m.%Y'"):
        source(tmp_path / "werte.csv").load()
    bars = source(tmp_path / "werte.csv", timestamp_format="%d.%m.%Y").load()
    assert bars.columns == ["timestamp", "asset", "Wert"]
    assert str(bars["timestamp"][-1]).startswith("2021-03-01")
    assert bars["Wert"][11] == 4.15


def test_texts_are_not_used_and_said(tmp_path, caplog):
    say.cache_clear()
    with caplog.at_level(logging.INFO):
        data = series(sensors(note=pl.Series(["ok"] * ROWS)), tmp_path / "sensors.csv")
    assert "not used, since it holds no numbers: 'note'" in caplog.text
    assert data.feature_names == ["Pressure", "Volume RateRMS"]


def test_several_series_are_told_apart_by_an_id(tmp_path):
    frame = pl.concat([sensors().with_columns(unique_id=pl.lit(name)) for name in ("a", "b")])
    assert series(frame, tmp_path / "long.csv").train_windows.series.asset_names == ("a", "b")


def test_a_table_whose_columns_are_all_constant_is_refused(tmp_path):
    frame = sensors().select("time", x=pl.lit(1.0), y=pl.lit(2.0))
    with pytest.raises(DataError, match="x, which is constant"):
        series(frame, tmp_path / "still.csv")


ENTRIES = [
    "Pressure",
    "diff(Pressure)",
    "zscore_5(Volume RateRMS)",
    {"name": "basis", "expression": 'Pressure - "Volume RateRMS"', "lookback": 1},
    {"name": "lagged", "expression": "LAG(Pressure) OVER (ORDER BY timestamp)", "lookback": 2},
]


def test_entries_name_columns_transforms_and_expressions(tmp_path):
    data = series(sensors(), tmp_path / "sensors.csv", ENTRIES)
    assert data.feature_names == ["Pressure", "diff(Pressure)", "zscore_5(Volume RateRMS)", "basis", "lagged"]
    values = data.scaler.inverse_transform(data.train_windows.gather(np.array([0])).double())[0].numpy()
    frame, first = sensors(), 4  # the longest look-back is 5 bars
    pressure, rate = frame["Pressure"].to_numpy(), frame["Volume RateRMS"].to_numpy()
    rows = np.arange(first, first + 8)
    np.testing.assert_allclose(values[:, 1], pressure[rows] - pressure[rows - 1], atol=1e-6)
    np.testing.assert_allclose(values[:, 3], pressure[rows] - rate[rows], atol=1e-6)
    np.testing.assert_allclose(values[:, 4], pressure[rows - 1], atol=1e-6)
    last = rate[0:5]
    np.testing.assert_allclose(values[0, 2], (last[-1] - last.mean()) / last.std(ddof=1), atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("Presure", "data.features has 'Presure'; did you mean Pressure?"),
        ("diff(Presure)", "data.features has diff(Presure), which needs Presure"),
        ("smooth(Pressure)", "there are log(column), diff(column)"),
        ("zscore_1(Pressure)", "its number of bars must be in [2, 1000000]"),
        ({"name": "x"}, "data.features has x with name"),
        ({"name": "x", "expression": "Pressure +", "lookback": 1}, "does not parse as one SQL expression"),
        ({"name": "x", "expression": "Presure * 2", "lookback": 1}, "which needs Presure"),
        ({"name": "x", "expression": "Pressure - avg(Pressure)", "lookback": 1}, "aggregates over a whole column"),
        ({"name": "x", "expression": "LEAD(Pressure) OVER (ORDER BY timestamp)", "lookback": 1}, "looks ahead"),
        ({"name": "x", "expression": "Pressure", "lookback": 0}, "its lookback is 0; it must be in [1, 1000000]"),
        ({"name": "x", "expression": "1", "lookback": 1}, "names no column"),
    ],
    ids=[f"mistake-{number}" for number in range(11)],
)  # fmt: skip
def test_mistakes_in_entries_are_named(entry, message):
    with pytest.raises(DataError) as error:
        find_all([entry], ["timestamp", "asset", "Pressure", "Volume RateRMS"])
    assert message in str(error.value)


def test_a_column_without_any_value_is_left_out_with_a_line(tmp_path, caplog):
    frame = sensors(Spare=pl.Series([None] * ROWS, dtype=pl.Float64))
    with caplog.at_level(logging.INFO):
        data = series(frame, tmp_path / "sensors.parquet")
    assert data.feature_names == ["Pressure", "Volume RateRMS"]
    assert "left out, since they are empty: Spare" in caplog.text


def test_a_series_is_stale_where_no_column_moves_and_some_is_not_0(tmp_path):
    frame = sensors().with_columns(
        Rain=pl.lit(0.0), Pressure=pl.when(pl.int_range(ROWS).is_between(100, 119)).then(1.0).otherwise("Pressure")
    )
    rain, other = frame.select("time", "Rain", "Pressure"), frame
    assert series(other, tmp_path / "other.csv").findings.height == 0  # a column that stands still among others
    assert series(rain, tmp_path / "stuck.csv").findings["check"].to_list() == ["stale_run"]
    dry = rain.with_columns(Pressure=pl.when(pl.col("Pressure") == 1).then(0.0).otherwise("Pressure"))
    assert series(dry, tmp_path / "dry.csv").findings.height == 0
