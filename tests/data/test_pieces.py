"""A series that is built a few assets at a time is the series that is built at once."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import slow_but

from refold.data import pipeline
from refold.data.bars.checks import Checks
from refold.data.long import ordered
from refold.data.long.spool import Spool
from refold.data.sources import Csv, Parquet
from refold.data.sources import csv as csv_files
from refold.data.sources import files as reading
from refold.data.sources.source import batches_of
from refold.data.windows.scaler import Scaler, Statistics
from refold.errors import DataError
from tests.data.makers import ALL_FEATURES, Frame, checks, module, random_bars, ready, table, with_value

BARS = random_bars([200, 150, 180, 90])
SETTINGS = {"batch_size": 16, "features": ALL_FEATURES}


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """As if memory held 250 bars: each of the four assets alone."""
    monkeypatch.setattr(pipeline, "BARS", 250)
    monkeypatch.setattr(ordered, "SORTED", 250)
    monkeypatch.setattr(reading, "ROWS", 64)
    monkeypatch.setattr(csv_files, "BLOCK", 5_000)


def csv(path, **others) -> Csv:
    return Csv(path=str(path), separator=",", table=table(**others))


def assert_equal(one, two) -> None:
    """Two modules that are set up hold the same, bit for bit."""
    assert one.scaler == two.scaler
    assert one.fingerprint == two.fingerprint
    assert one.findings.equals(two.findings)
    assert one.description == two.description
    assert one.feature_names == two.feature_names
    for part in ("train", "val", "test"):
        first, second = one.windows(part), two.windows(part)
        index = np.arange(len(first))
        assert len(first) == len(second)
        assert torch.equal(first.gather(index), second.gather(index))
        assert (first.mask(index) is None) == (second.mask(index) is None)
        assert first.mask(index) is None or torch.equal(first.mask(index), second.mask(index))
        assert np.array_equal(first.timestamps(index), second.timestamps(index))
        assert first.assets(index) == second.assets(index)
        if first.series.close is not None:
            assert torch.equal(first.first_close(index), second.first_close(index))


def written(bars: pl.DataFrame, kind: str, folder):
    """A source of each kind that holds bars."""
    if kind == "csv":
        bars.write_csv(folder / "bars.csv")
        return csv(folder / "bars.csv")
    if kind == "parquet":
        bars.write_parquet(folder / "bars.parquet", row_group_size=50)
        return Parquet(path=str(folder / "bars.parquet"), table=table())
    if kind == "categories":
        bars.with_columns(pl.col("asset").cast(pl.Categorical)).write_parquet(folder / "bars.parquet")
        return Parquet(path=str(folder / "bars.parquet"), table=table())
    for name in "ABCD":
        (folder / "bars" / f"symbol={name}").mkdir(parents=True)
        own = bars.filter(pl.col("asset") == name).drop("asset")
        own.write_parquet(folder / "bars" / f"symbol={name}" / "0.parquet")
    return Parquet(path=str(folder / "bars"), table=table())


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
@pytest.mark.parametrize("order", slow_but(["timestamp"], ["asset", "timestamp"]))
@pytest.mark.parametrize("kind", slow_but(["csv"], ["csv", "parquet", "categories", "partitioned"]))
def test_pieces_give_what_the_whole_gives(tmp_path, kind, order, layout):
    source = written(BARS.sort(order, maintain_order=True), kind, tmp_path)
    assert len(list(batches_of(source))) > 5
    settings = {**SETTINGS, "source": source, "layout": layout}
    if layout == "panel":  # D enters late
        settings |= {"min_assets": 0.5, "features": [name for name in ALL_FEATURES if name != "window_log_price"]}
    assert_equal(ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache")))


@pytest.mark.parametrize("policy", ["mask", "drop"])
def test_findings_and_masks_are_those_of_the_whole(tmp_path, policy):
    spoilt = with_value(BARS, [30, 230, 231, 400], "close", None)
    spoilt = pl.concat([spoilt, spoilt[[5, 205]]])  # duplicates, out of order
    source = written(spoilt, "csv", tmp_path)
    settings = {
        "source": source,
        "features": ["log_return", "window_log_price"],
        "checks": checks(missing_value=policy, duplicate="drop", gap="mask"),
        "max_masked": 3,
    }
    whole, pieces = ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache"))
    gaps = {"gap"} if policy == "drop" else set()
    assert set(whole.findings["check"]) == {"missing_value", "duplicate", "out_of_order"} | gaps
    assert whole.train_windows.mask([0]) is not None
    assert_equal(whole, pieces)


def test_what_the_market_did_is_known_to_each_piece(tmp_path):
    """All assets halve on one day: no piece alone could tell that from a split."""
    halved = pl.col("timestamp") >= BARS["timestamp"][150]
    calm = BARS.with_columns(volume=pl.lit(1e6), open=pl.col("close").shift(1).over("asset").fill_null(pl.col("open")))
    calm = calm.with_columns(high=pl.max_horizontal("high", "open"), low=pl.min_horizontal("low", "open"))
    prices = [pl.when(halved).then(pl.col(n) / 2).otherwise(n).alias(n) for n in ("open", "high", "low", "close")]
    source = written(calm.with_columns(prices), "parquet", tmp_path)
    settings = {"source": source, "features": ["log_return"]}
    data = ready(BARS, **settings, cache=str(tmp_path / "cache"))
    assert "split_like" not in data.findings["check"].to_list()
    assert_equal(ready(BARS, **settings), data)
    alone = ready(BARS, source=Frame(calm.with_columns(prices).filter(pl.col("asset") == "A")), features=["log_return"])
    assert "split_like" in alone.findings["check"].to_list()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_wide_file_is_cut_by_rows(tmp_path, kind):
    wide = BARS.pivot("asset", index="timestamp", values="close").sort("timestamp")
    if kind == "csv":
        wide.write_csv(tmp_path / "wide.csv")
        source = csv(tmp_path / "wide.csv", assets=["A", "B", "D"])
    else:
        wide.write_parquet(tmp_path / "wide.parquet")
        source = Parquet(path=str(tmp_path / "wide.parquet"), table=table(assets=["A", "B", "D"]))
    batches = list(batches_of(source))
    assert len(batches) > 1
    assert kind == "csv" or max(batch.height for batch in batches) <= 64
    settings = {"source": source, "features": ["log_return"]}
    assert_equal(ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache")))


def test_rows_without_an_asset_are_in_a_piece(tmp_path):
    bars = BARS.with_columns(pl.when(pl.int_range(pl.len()) == 300).then(None).otherwise("asset").alias("asset"))
    settings = {"source": written(bars, "csv", tmp_path), **SETTINGS, "checks": checks(missing_timestamp="drop")}
    whole, pieces = ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache"))
    assert whole.findings["check"].to_list() == ["missing_timestamp", "gap"]
    assert_equal(whole, pieces)


def test_dates_and_assets_that_are_kept_are_those_of_the_whole(tmp_path):
    BARS.write_csv(tmp_path / "bars.csv")
    source = csv(tmp_path / "bars.csv", start="2020-02-01", end="2020-06-20", assets=["A", "B", "C"])
    settings = {"source": source, **SETTINGS}
    assert_equal(ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache")))
    # D, the last to enter, has no bar before this
    early = csv(tmp_path / "bars.csv", end="2020-04-15")
    assert "D" not in early.load()["asset"]
    settings = {"source": early, "features": ["log_return"]}
    assert_equal(ready(BARS, **settings), ready(BARS, **settings, cache=str(tmp_path / "cache")))


@pytest.mark.parametrize(("row", "column", "value"), [(400, "close", "n/a"), (400, "timestamp", "soon")])
def test_a_cell_is_named_by_its_row_of_the_file(tmp_path, row, column, value):
    spoilt = BARS.with_columns(
        pl.when(pl.int_range(pl.len()) == row)
        .then(pl.lit(value))
        .otherwise(pl.col(column).cast(pl.String))
        .alias(column)
    )
    spoilt.write_csv(tmp_path / "bars.csv")
    source = csv(tmp_path / "bars.csv")
    messages = []
    for settings in ({}, {"cache": str(tmp_path / "cache")}):
        with pytest.raises(DataError) as error:
            module(BARS, source=source, **settings).setup()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert f"bars.csv, row {row + 2}, column {column!r}: {value!r}" in messages[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_file_is_named_whole_or_in_pieces(tmp_path):
    (tmp_path / "bars.csv").write_text("date,symbol,close\n2020-01-01,A,1,2\n")
    (tmp_path / "bars.parquet").write_bytes(b"not parquet")
    for source in (csv(tmp_path / "bars.csv"), Parquet(path=str(tmp_path / "bars.parquet"), table=table())):
        with pytest.raises(DataError, match=r"data\.path is .*(not a table|cannot be read as Parquet)"):
            list(batches_of(source))


def test_dates_of_two_kinds_are_refused(tmp_path, monkeypatch):
    texts = BARS.with_columns(
        pl.when(pl.col("asset") == "A")
        .then(pl.col("timestamp").cast(pl.String))
        .otherwise(pl.col("timestamp").cast(pl.String) + " 10:00")
        .alias("timestamp")
    )
    data = module(BARS, source=written(texts, "csv", tmp_path), cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"row 202, column 'timestamp': '2020-02-20 10:00' is a date of another form"):
        data.setup()  # both kinds are in one batch
    of_a = texts[:200].write_csv(include_header=False)
    monkeypatch.setattr(csv_files, "BLOCK", len(of_a) - 1)
    with pytest.raises(DataError, match=r"timestamps of the table are of two kinds, Date and Datetime"):
        data.setup()


def test_no_more_than_a_piece_is_loaded_at_once(tmp_path, monkeypatch):
    """Of 620 bars, no table of more than the longest asset's reaches the checks."""
    source = written(BARS, "parquet", tmp_path)
    heights = []
    run = Checks.run

    def recorded(self, bars, *others):
        heights.append(bars.height)
        return run(self, bars, *others)

    monkeypatch.setattr(Checks, "run", recorded)
    module(BARS, source=source, cache=str(tmp_path / "cache")).setup()
    assert sorted(heights) == [90, 150, 180, 200]


# Their parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "array.npy"])
def test_a_spool_holds_what_was_added(tmp_path, path):
    spool = Spool(path and tmp_path / path)
    blocks = [np.random.default_rng(0).normal(size=(count, 3)) for count in (4, 0, 7)]
    for block in blocks:
        spool.add(np.asfortranarray(block))
    assert np.array_equal(np.concatenate(list(spool)), np.concatenate(blocks))
    assert np.array_equal(spool.array(), np.concatenate(blocks))
    if path:
        assert np.array_equal(np.load(tmp_path / path), np.concatenate(blocks))


def test_a_discarded_spool_leaves_no_file(tmp_path):
    spool = Spool(tmp_path / "array.npy")
    spool.add(np.zeros(3))
    spool.discard()
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_blocks_are_those_of_all_rows():
    rows = np.random.default_rng(0).normal(5, 0.01, size=(100, 2))
    rows[::3, 1] = np.nan
    statistics = Statistics()
    for block in np.split(rows, [0, 10, 55]):
        statistics.add(block)
    scaler = statistics.scaler(["a", "b"])
    whole = Scaler.fit(torch.from_numpy(rows), ["a", "b"])
    assert scaler.mean.tolist() == pytest.approx(np.nanmean(rows, axis=0).tolist(), rel=1e-14)
    assert scaler.std.tolist() == pytest.approx(np.nanstd(rows, axis=0).tolist(), rel=1e-12)
    assert torch.allclose(whole.std, scaler.std, rtol=1e-12)
