"""A table that is read some rows at a time is, in order, the table that is read at once."""

import gzip

import polars as pl
import pytest

from refold.data.bars.market import survey
from refold.data.long import ordered
from refold.data.long.ordered import read_sorted
from refold.data.long.spool import TableSpool
from refold.data.sources import csv as csv_files
from refold.data.sources import files as reading
from refold.data.sources.source import batches_of
from refold.errors import DataError
from tests.data.makers import Frame, checks, random_bars, with_value
from tests.data.test_pieces import BARS, csv, written


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path):
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept" if request.param == "disk" else None


def some(bars: pl.DataFrame, rows: int) -> list[pl.DataFrame]:
    return [bars[start : start + rows] for start in range(0, bars.height, rows)]


@pytest.mark.parametrize("rows", [33, 10_000])
@pytest.mark.parametrize("order", ["as it is", "by time", "backwards"])
def test_bars_come_back_in_order_with_what_the_market_did(folder, monkeypatch, order, rows):
    monkeypatch.setattr(ordered, "SORTED", 250)
    monkeypatch.setattr(ordered, "MOMENTS", 60)
    bars = {"as it is": BARS, "by time": BARS.sort("timestamp", "asset"), "backwards": BARS.reverse()}[order]
    found = read_sorted(some(bars, rows), checks(), folder)
    assert found.rows == BARS.height
    assert found.assets == {"A": 200, "B": 150, "C": 180, "D": 90}
    assert found.slice(0, BARS.height).equals(BARS)
    assert found.slice(190, 230).equals(BARS[190:230])
    assert found.market(BARS).equals(survey(BARS))
    days = BARS["timestamp"].sort()[150:300]
    part = BARS.filter(pl.col("timestamp").is_in(days.implode()))
    assert found.market(part).equals(survey(BARS).filter(pl.col("timestamp").is_in(days.implode())))


@pytest.mark.parametrize("rows", [7, 80, 1000])
def test_cuts_hold_every_row_once_and_no_part_of_two_assets(rows):
    found = read_sorted([BARS], checks())
    cuts = list(found.cuts(rows))
    assert [row for cut in cuts for row in range(cut.first, cut.end)] == list(range(BARS.height))
    for cut in cuts:
        assert cut.end - cut.first <= rows
        names = BARS["asset"][cut.first : cut.end].unique()
        reach = BARS.with_row_index().filter(pl.col("asset").is_in(names.implode()))["index"]
        assert (cut.low, cut.high) == (reach[0], reach[-1] + 1)
        assert len(names) == 1 or (cut.first, cut.end) == (cut.low, cut.high)
    assert [cut.end - cut.first for cut in found.cuts(160, divide=False)] == [200, 150, 180, 90]


def test_some_assets_of_a_table_are_cut_as_in_the_whole_and_know_the_market():
    found = read_sorted([BARS], checks())
    shards = found.shards(250)
    assert shards == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert found.shards(350) == [(0, 2), (2, 4)]
    apart = [found.of_assets(*shard) for shard in shards]
    assert [part.rows for part in apart] == [200, 150, 180, 90]
    assert [list(part.assets) for part in apart] == [["A"], ["B"], ["C"], ["D"]]
    assert [cut for part in apart for cut in part.cuts(80)] == list(found.cuts(80))
    assert apart[2].market(BARS).equals(survey(BARS))


def test_the_bars_around_a_bar_are_of_its_asset():
    found = read_sorted([BARS], checks())
    assert found.rows_near(100, 10, 5) == (90, 106)
    assert found.rows_near(199, 10, 5) == (189, 200)
    assert found.rows_near(200, 10, 5) == (200, 206)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 50])
def test_what_is_out_of_order_or_without_a_date_is_counted_as_in_the_whole_table(rows):
    bars = pl.concat([BARS[:100], BARS[[90, 20]], BARS[100:]])
    bars = bars.with_columns(
        pl.when(pl.int_range(pl.len()).is_in([7, 250])).then(None).otherwise("timestamp").alias("timestamp")
    )
    rules = checks(missing_timestamp="drop", duplicate="warn")
    found = read_sorted(some(bars, rows), rules)
    expected = rules.run(bars).table.filter(pl.col("check").is_in(["missing_timestamp", "out_of_order"]))
    assert expected["bars"].to_list() == [1, 1, 2]
    assert found.findings.equals(expected)
    assert found.rows == bars.height - 2
    with pytest.raises(DataError, match="a bar must have a date and an asset"):
        read_sorted(some(bars, rows), checks())


def test_a_table_without_a_usable_row_is_refused():
    bars = random_bars([5]).with_columns(pl.lit(None, pl.Date).alias("timestamp"))
    with pytest.raises(DataError, match="the data has 0 usable rows"):
        read_sorted([bars], checks(missing_timestamp="drop"))


def test_dates_of_two_kinds_are_refused():
    other = BARS.with_columns(pl.col("timestamp").cast(pl.Datetime("us")))
    with pytest.raises(DataError, match="timestamps of the table are of two kinds, Date and Datetime"):
        read_sorted([BARS[:100], other[100:]], checks())
    empty = BARS.with_columns(pl.lit(None, pl.Datetime("us")).alias("timestamp"))  # as texts of no form are read
    assert read_sorted([BARS[:100], empty[100:120]], checks(missing_timestamp="drop")).rows == 100


@pytest.mark.parametrize("kind", ["csv", "parquet", "categories", "partitioned"])
def test_the_batches_of_a_file_are_its_rows_in_their_order(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reading, "ROWS", 64)
    monkeypatch.setattr(csv_files, "BLOCK", 5_000)
    source = written(with_value(BARS, [3, 400], "close", None), kind, tmp_path)
    batches = list(batches_of(source))
    assert len(batches) > 5
    assert max(batch.height for batch in batches) <= 200
    assert pl.concat(batches).equals(source.load())


def test_a_packed_file_and_one_with_quoted_line_ends_are_read_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 5_000)
    odd = BARS.with_columns(pl.col("asset").replace({"B": 'B "one"\nB'}))
    odd.write_csv(tmp_path / "odd.csv")
    batches = list(batches_of(csv(tmp_path / "odd.csv")))
    assert len(batches) > 5
    assert pl.concat(batches).equals(odd)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress((tmp_path / "odd.csv").read_bytes()))
    assert pl.concat(batches_of(csv(tmp_path / "packed.csv.gz"))).equals(odd)
    (tmp_path / "wrong.csv").write_text((tmp_path / "odd.csv").read_text() + "2020-01-01,Z,1,1,1,soon,1\n")
    rows = (tmp_path / "wrong.csv").read_text().count("2020-") + (tmp_path / "wrong.csv").read_text().count("2021-")
    with pytest.raises(DataError, match=rf"wrong\.csv, row {rows + 1}, column 'close': 'soon' is not a number"):
        list(batches_of(csv(tmp_path / "wrong.csv")))


def test_a_wide_file_and_a_source_that_cannot_be_cut_are_batches_too(tmp_path):
    BARS.pivot("asset", index="timestamp", values="close").sort("timestamp").write_csv(tmp_path / "wide.csv")
    found = read_sorted(batches_of(csv(tmp_path / "wide.csv")), checks())
    assert found.slice(0, found.rows).equals(BARS.select("timestamp", "asset", "close"))
    (whole,) = batches_of(Frame(BARS))
    assert whole.equals(BARS)


def test_a_file_without_a_bar_that_is_asked_for_says_so(tmp_path):
    BARS.write_csv(tmp_path / "bars.csv")
    with pytest.raises(DataError, match=r"has no bars of data\.source\.table\.assets \['X'\]"):
        list(batches_of(csv(tmp_path / "bars.csv", assets=["X"])))
    (tmp_path / "broken.csv").write_text("date,symbol,close\n2020-01-01,A,1,2\n")
    with pytest.raises(DataError, match=r"data\.path is .*not a table"):
        list(batches_of(csv(tmp_path / "broken.csv")))


@pytest.mark.parametrize("path", [None, "table.parquet"])
def test_a_table_spool_holds_what_was_added(tmp_path, path):
    spool = TableSpool(path and tmp_path / path)
    for part in (BARS[:100], BARS[:0], BARS[100:]):
        spool.add(part)
    assert spool.rows == BARS.height
    assert spool.table().collect().equals(BARS)
    assert [file.name for file in tmp_path.iterdir()] == ([path] if path else [])


def test_rows_that_go_on_in_order_are_checked_as_all_others_are(monkeypatch):
    """The short way of sorted rows gives what the long one gives, and is not taken where something is to be found."""
    bars = random_bars([60, 50, 40])
    spoilt = [
        bars,
        bars.reverse(),
        with_missing(bars, 7, "asset"),
        with_missing(bars, 7, "timestamp"),
        pl.concat([bars[:40], bars[20:30], bars[40:]]),
        pl.concat([bars[:30], bars[:10], bars[30:]]),
    ]
    soft = checks(missing_timestamp="drop", duplicate="drop")
    for table in spoilt:
        batches = [table[start : start + 15] for start in range(0, table.height, 15)]
        short = read_sorted(batches, soft)
        with monkeypatch.context() as patch:
            patch.setattr("refold.data.bars.checks.goes_on", lambda bars, last: False)
            long = read_sorted(batches, soft)
        assert short.bars.collect().equals(long.bars.collect())
        assert short.findings.equals(long.findings)
        assert short.assets == long.assets
        one, other = short.faulty.table(), long.faulty.table()
        assert (one is None and other is None) or one.equals(other)


def with_missing(bars: pl.DataFrame, row: int, column: str) -> pl.DataFrame:
    return bars.with_columns(pl.when(pl.int_range(pl.len()) != row).then(pl.col(column)).alias(column))
