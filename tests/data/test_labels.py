"""A column of labels: read from any table, carried beside the bars, and never seen by a model."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from refold.data.bars import cells
from refold.data.bars.table import LABEL
from refold.data.sources import Csv, Parquet
from refold.data.sources.source import batches_of
from refold.errors import DataError
from tests.data.makers import checks, module, random_bars, table

NAMED = {"columns": {"label": "anomaly"}}


def labelled(lengths=(300, 280), every: int = 7) -> pl.DataFrame:
    return random_bars(lengths).with_columns(anomaly=(pl.int_range(pl.len()) % every == 0).cast(pl.Int64))


def canonical(frame: pl.DataFrame, **settings) -> pl.DataFrame:
    return table(**{**NAMED, **settings}).canonical(frame, where="FILE", single_asset="A")


@pytest.mark.parametrize(
    "column",
    [
        pl.col("anomaly").cast(pl.Boolean),
        pl.col("anomaly").cast(pl.Float32),
        pl.col("anomaly").cast(pl.UInt8),
        pl.col("anomaly").cast(pl.String),
        pl.col("anomaly").cast(pl.Float64).cast(pl.String),
        pl.col("anomaly").cast(pl.Boolean).cast(pl.String).str.to_titlecase(),
        pl.lit(" ") + pl.col("anomaly").cast(pl.String),
    ],
    ids=["bool", "float", "uint8", "0 and 1", "0.0 and 1.0", "True and False", "blank before"],
)
def test_zeros_and_ones_are_understood_as_they_come(column):
    bars = canonical(labelled().with_columns(anomaly=column))
    assert bars.columns[:3] == ["timestamp", "asset", "label"]
    assert bars.schema[LABEL] == pl.Int8
    assert bars[LABEL].to_list() == [int(row % 7 == 0) for row in range(bars.height)]


@pytest.mark.parametrize("value", [2, -1, 0.5, None, float("nan"), "yes"])
def test_other_values_are_refused_with_value_row_and_key(value):
    frame = labelled().with_columns(
        anomaly=pl.when(pl.int_range(pl.len()) == 4).then(pl.lit(value)).otherwise(pl.lit(0))
    )
    with pytest.raises(DataError, match=r"^FILE, row 6, column 'anomaly': .* data\.source\.table\.columns\.label"):
        canonical(frame)


def test_the_label_of_a_wide_table_is_that_of_the_moment():
    closes = random_bars((20,))["close"]
    days = pl.date_range(date(2020, 1, 1), date(2020, 1, 20), eager=True)
    frame = pl.DataFrame({"date": days, "A": closes, "label": closes, "anomaly": [0] * 19 + [1]})
    bars = canonical(frame.with_columns(A=pl.when(pl.int_range(20) == 3).then(None).otherwise("A")))
    assert sorted(bars["asset"].unique()) == ["A", "label "]  # an asset may be called label
    assert bars.filter(pl.col(LABEL) == 1).select("timestamp", "asset").rows() == [
        (date(2020, 1, 20), "A"),
        (date(2020, 1, 20), "label "),
    ]


def test_a_column_without_a_name_of_its_own_is_no_label():
    frame = labelled().rename({"anomaly": "label"})
    assert LABEL not in table().canonical(frame, where="FILE", single_asset="A").columns


def test_bars_to_score_may_lack_the_labels_of_training():
    bars = table(**NAMED).with_optional_label().canonical(random_bars((20,)), where="FILE", single_asset="A")
    assert LABEL not in bars.columns
    with pytest.raises(DataError, match=r"columns\.label is 'anomaly'; FILE has"):
        canonical(random_bars((20,)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_in_pieces_give_the_labels_of_files_at_once(kind, tmp_path):
    frame, path = labelled(), tmp_path / f"bars.{kind}"
    frame = frame.sample(fraction=1.0, shuffle=True, seed=0)
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    how = {"path": str(path), "table": table(**NAMED)}
    source = Csv(separator=None, **how) if kind == "csv" else Parquet(**how)
    assert pl.concat(batches_of(source)).equals(source.load())
    assert source.load()[LABEL].sum() == frame["anomaly"].sum()


def test_labels_follow_their_bars_through_sorting_checks_and_the_cache(tmp_path):
    frame = labelled().sample(fraction=1.0, shuffle=True, seed=0)
    frame.write_parquet(tmp_path / "bars.parquet")
    source = Parquet(path=str(tmp_path / "bars.parquet"), table=table(**NAMED))
    soft = checks(out_of_order="warn")
    plain = module(pl.DataFrame(), source=source, checks=soft)
    cached = module(pl.DataFrame(), source=source, checks=soft, cache=str(tmp_path / "cache"))
    for data in (plain, cached):
        data.setup()
        series = data.train_windows.series
        assert series.label is not None
        assert series.label.tolist() == labelled().sort("asset", "timestamp")["anomaly"].to_list()
    assert cached.fingerprint == plain.fingerprint


def test_labels_change_neither_features_nor_scale_nor_fingerprint():
    frame = labelled()
    seen = module(canonical(frame))
    blind = module(table().canonical(frame, where="FILE", single_asset="A"))
    for data in (seen, blind):
        data.setup()
    assert seen.feature_names == blind.feature_names
    assert seen.scaler == blind.scaler
    assert seen.fingerprint == blind.fingerprint
    assert np.array_equal(seen.train_windows.series.values.numpy(), blind.train_windows.series.values.numpy())
    assert blind.train_windows.series.label is None


def test_a_panel_has_a_label_for_each_asset_and_moment():
    frame = labelled((300, 300))
    data = module(canonical(frame), layout="panel")
    data.setup()
    label = data.train_windows.series.label
    assert label is not None
    assert label.shape == (300, 2)
    assert label.T.reshape(-1).tolist() == frame["anomaly"].to_list()


def test_a_masked_hole_has_no_anomaly():
    frame = labelled((300, 300)).filter(pl.int_range(pl.len()) != 150)
    data = module(canonical(frame), checks=checks(gap="mask"))
    data.setup()
    label = data.train_windows.series.label
    assert label is not None
    assert (len(label), int(label.sum())) == (600, int(frame["anomaly"].sum()))


def test_columns_named_like_labels_are_no_values_of_a_series_and_the_log_says_so(caplog):
    days = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 1, 39), "1s", eager=True)
    numbers = pl.Series(np.random.default_rng(0).normal(size=100))
    flags = (pl.int_range(100, eager=True) > 90).cast(pl.Int64)
    texts = flags.cast(pl.Float64).cast(pl.String)
    frame = pl.DataFrame({"datetime": days, "Current": numbers, "open": flags, "anomaly": texts, "changepoint": texts})
    cells.say.cache_clear()
    with caplog.at_level("INFO"):
        bars = table(kind="series", **NAMED).canonical(frame, where="skab.csv", single_asset="A")
    assert bars.columns == ["timestamp", "asset", "label", "Current", "open"]
    assert "named like a label and holds 0 and 1: 'changepoint'" in caplog.text
    blind = table(kind="series").canonical(frame, where="other.csv", single_asset="A")
    assert blind.columns == ["timestamp", "asset", "Current", "open"]
    chosen = table(kind="series", values=["changepoint"]).canonical(frame, where="skab.csv", single_asset="A")
    assert chosen.columns == ["timestamp", "asset", "changepoint"]
    scores = frame.with_columns(anomaly=numbers)
    assert "anomaly" in table(kind="series").canonical(scores, where="scores.csv", single_asset="A").columns


def test_rows_without_a_time_and_epochs_of_a_usual_name_are_series():
    frame = pl.DataFrame({"Data": np.arange(50.0) % 7, "Label": [0] * 49 + [1]})
    named = table(kind="series", columns={"label": "Label"}).canonical(frame, where="tsb.csv", single_asset="A")
    assert named.columns == ["timestamp", "asset", "label", "Data"]
    assert named[LABEL].sum() == 1
    epochs = pl.DataFrame({"ts": 1_700_000_000 + 60 * np.arange(50), "flow": np.arange(50.0) % 7})
    bars = table(kind="series").canonical(epochs, where="plant.csv", single_asset="A")
    assert bars.columns == ["timestamp", "asset", "flow"]
    assert bars["timestamp"][1] - bars["timestamp"][0] == timedelta(minutes=1)


@pytest.mark.parametrize(("wide", "said"), [(False, "not used, since it is named"), (True, "read as an asset, though")])
def test_a_column_named_like_a_label_beside_prices_is_told(caplog, wide, said):
    frame = labelled((20,)).rename({"anomaly": "Is Anomaly"})
    if wide:
        frame = frame.select(pl.col("timestamp").alias("date"), pl.col("close").alias("X"), "Is Anomaly")
    cells.say.cache_clear()
    with caplog.at_level("INFO"):
        table().find(frame.columns, "FILE")
        table().find(frame.columns, "FILE")
    assert caplog.text.count(said) == 1
    assert "data.source.table.columns.label=Is Anomaly measures against it" in caplog.text
    caplog.clear()
    cells.say.cache_clear()
    table(columns={"label": "Is Anomaly"}).find(frame.columns, "FILE")
    assert not caplog.text
