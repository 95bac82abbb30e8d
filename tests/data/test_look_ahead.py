"""Nothing looks ahead: whatever happens to the prices after a date, nothing before it changes.

For every source, layout and feature: the features themselves, the scale, and the windows of all parts. What is changed
is what the source reads, so parsing, adjusting, checks and cache are in it.
"""

import functools
import importlib.metadata
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
import torch
from conftest import slow_but

from refold.data import pipeline
from refold.data.sources import Csv, Excel, Parquet, SkfolioPanel, Sql, Stocks, Synthetic
from refold.data.sources.csv import read_texts
from refold.data.windows.split import ByDate, PurgedKFold, WalkForward
from tests.data.lookalikes import crypto, days_of, futures, in_zone, new_york, walk, without
from tests.data.makers import ALL_FEATURES, checks, random_bars, ready, table
from tests.data.spreadsheets import write_xlsx

BARS = random_bars([220, 200, 220])
DAYS = BARS["timestamp"].unique().sort()
CUT = DAYS[170]
SPLIT = {"val_start": str(DAYS[100]), "test_start": str(DAYS[140])}
CHANGES = slow_but(["replace"], ["shift", "scale", "replace"])


def changed(bars: pl.DataFrame, change: str | None, cut: date = CUT) -> pl.DataFrame:
    """Bars whose numbers from a date on are shifted, scaled or replaced by others; None leaves them."""
    if change is None:
        return bars
    numbers = [name for name in bars.columns if name not in ("timestamp", "asset")]
    if change == "replace":  # a walk of its own; at 1 + z^2 broken bars and splits come up too, and are warned of
        draws = np.random.default_rng(7).normal(size=(bars.height, len(numbers)))
        other = {name: pl.Series(1 + draws[:, place] ** 2) for place, name in enumerate(numbers)}
    else:
        other = {name: pl.col(name) + 50 if change == "shift" else pl.col(name) * 1e3 for name in numbers}
    after = pl.col("timestamp") >= cut
    return bars.with_columns(pl.when(after).then(value).otherwise(name).alias(name) for name, value in other.items())


# Sources: (bars as they are to be read, folder) -> a source that reads them -------------------------------------------


def _csv(bars: pl.DataFrame, folder: Path) -> Csv:
    bars.rename({"timestamp": "date", "asset": "symbol"}).write_csv(folder / "bars.csv")
    return Csv(path=str(folder / "bars.csv"), separator=",", table=table())


def _csv_adjusted(bars: pl.DataFrame, folder: Path) -> Csv:
    bars.with_columns(pl.col("close").alias("adj close") * 0.5).write_csv(folder / "bars.csv")
    return Csv(path=str(folder / "bars.csv"), separator=",", table=table(adjusted=True, price_scale=0.01))


def _parquet(bars: pl.DataFrame, folder: Path) -> Parquet:
    bars.write_parquet(folder / "bars.parquet")
    return Parquet(path=str(folder / "bars.parquet"), table=table())


def _excel(bars: pl.DataFrame, folder: Path) -> Excel:
    return Excel(
        path=str(write_xlsx(folder / "bars.xlsx", {"Bars": [bars.columns, *bars.rows()]})), sheet=None, table=table()
    )


def _sql(bars: pl.DataFrame, folder: Path) -> Sql:
    pytest.importorskip("connectorx", reason="the connector of data=sql is not installed")
    with closing(sqlite3.connect(folder / "bars.db")) as connection:
        numbers = ", ".join(f"{name} real" for name in bars.columns[2:])
        connection.execute(f"create table bars (date text, symbol text, {numbers})")
        marks = ", ".join("?" * len(bars.columns))
        rows = bars.with_columns(pl.col("timestamp").cast(pl.String)).rows()
        connection.executemany(f"insert into bars values ({marks})", rows)
        connection.commit()
    return Sql(uri=f"sqlite://{folder / 'bars.db'}", query="select * from bars", table=table())


SOURCES: dict[str, Callable] = {
    "csv": _csv,
    "csv adjusted": _csv_adjusted,
    "excel": _excel,
    "parquet": _parquet,
    "sql": _sql,
}


def assert_nothing_before_changed(first, second, cut: date = CUT, felt_after: bool = True) -> None:
    """Features, scale and windows that end before the cut are equal, bit for bit; and the change is felt after it.

    Args: felt_after: whether the features can tell that something has changed.
    """
    assert first.scaler == second.scaler
    end, felt = np.datetime64(cut), False
    for part in ("train", "val", "test"):
        before, after = first.windows(part), second.windows(part)
        index = np.arange(len(before))
        held = {
            (asset, stamps[0]): number
            for number, (asset, stamps) in enumerate(
                zip(after.assets(np.arange(len(after))), after.timestamps(np.arange(len(after))), strict=True)
            )
        }
        earlier = (before.timestamps(index) < end).all(axis=1)
        assert earlier.sum() >= 10, part
        keys = zip(before.assets(index), before.timestamps(index)[:, 0], strict=True)
        same = np.array([held.get(key, -1) for key in keys])
        assert (same[earlier] >= 0).all(), part
        assert torch.equal(before.gather(index[earlier]), after.gather(same[earlier])), part
        if before.series.present is not None and after.series.present is not None:
            assert torch.equal(before.mask(index[earlier]), after.mask(same[earlier]))
        later = ~earlier & (same >= 0)
        felt |= len(before) != len(after) or not torch.equal(before.gather(index[later]), after.gather(same[later]))
        assert part != "train" or earlier.all()
    assert felt == felt_after


SOFT = checks(broken_bar="warn", non_positive="warn", feature_not_finite="mask")
SETTINGS = {"split": ByDate(**SPLIT, embargo=0), "checks": SOFT, "max_masked": 3}


@functools.lru_cache(maxsize=1)  # three changes in a row are compared with the same bars
def unchanged(layout: str, *features: str):
    return ready(BARS, **SETTINGS, features=list(features), layout=layout)


def read_from(source: str, layout: str, change: str | None):
    with TemporaryDirectory() as folder:
        made = SOURCES[source](changed(BARS, change), Path(folder))
        return ready(BARS, **SETTINGS, source=made, features=ALL_FEATURES, layout=layout)


@functools.lru_cache(maxsize=1)
def read_unchanged(source: str, layout: str):
    return read_from(source, layout, None)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["per_asset", "panel"])
@pytest.mark.parametrize("source", SOURCES)
def test_no_source_looks_ahead(source, layout, change):
    assert_nothing_before_changed(read_unchanged(source, layout), read_from(source, layout, change))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("feature", ALL_FEATURES)
@pytest.mark.parametrize("layout", slow_but(["per_asset"], ["per_asset", "panel"]))
def test_no_feature_looks_ahead(layout, feature, change):
    other = ready(changed(BARS, change), **SETTINGS, features=[feature], layout=layout)
    ratios = ("intraday_return", "parkinson_range", "garman_klass_range", "log_range", "upper_shadow", "lower_shadow")
    within_a_bar = feature in ratios  # of a bar's own prices
    felt_after = not (within_a_bar and change == "scale")
    assert_nothing_before_changed(unchanged(layout, feature), other, felt_after=felt_after)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_cache_built_in_pieces_does_not_look_ahead(tmp_path, monkeypatch, kind, change):
    monkeypatch.setattr(pipeline, "BARS", 250)
    modules = []
    for number, how in enumerate((None, change)):
        (tmp_path / str(number)).mkdir()
        source = SOURCES[kind](changed(BARS, how), tmp_path / str(number))
        settings = {"features": ALL_FEATURES, "split": ByDate(**SPLIT, embargo=0), "checks": SOFT, "max_masked": 3}
        modules.append(ready(BARS, source=source, cache=str(tmp_path / "cache"), **settings))
    assert_nothing_before_changed(*modules)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("split", ["walk_forward", "purged_kfold"])
def test_no_split_lets_the_future_change_the_scale(split, change):
    """Walking forward, the folds whose parts end before the cut; of k folds, those whose training does."""
    splits = {
        "walk_forward": (WalkForward(folds=4, test_fraction=0.4, train_moments=None, embargo=0), 1),
        "purged_kfold": (PurgedKFold(folds=4, embargo=0), 3),  # tests the last block, validates the first
    }
    split, fold = splits[split]
    calendar = DAYS
    cut = calendar[max(end for part, _, end in split.intervals(calendar, fold) if part == "train") + 1]
    modules = [
        ready(changed(BARS, how, cut), features=ALL_FEATURES, split=split, fold=fold, checks=SOFT, max_masked=3)
        for how in (None, change)
    ]
    assert modules[0].scaler == modules[1].scaler
    train = [data.train_windows for data in modules]
    index = np.arange(len(train[0]))
    assert len(train[0]) == len(train[1]) >= 20
    assert torch.equal(train[0].gather(index), train[1].gather(index))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_bars_to_predict_do_not_look_ahead_of_themselves(layout, change):
    """What stands after a window changes only where the change itself stands; so do the windows before it."""
    bars = random_bars([330, 310, 330])  # the bars to predict come on top of the look-back between parts
    days = bars["timestamp"].unique().sort()
    split, cut = ByDate(val_start=str(days[130]), test_start=str(days[200]), embargo=0), days[270]
    settings = {"features": ALL_FEATURES, "layout": layout, "split": split, "checks": SOFT}
    modules = [ready(changed(bars, how, cut), max_masked=3, horizon=6, **settings) for how in (None, change)]
    assert modules[0].scaler == modules[1].scaler
    felt = False
    for part in ("train", "val", "test"):
        before, after = (data.windows(part) for data in modules)
        there = {(asset, first): n for n, (asset, first) in enumerate(firsts(after))}
        pairs = np.array([(n, there[key]) for n, key in enumerate(firsts(before)) if key in there])
        (first, _), (other, _) = before.ahead(pairs[:, 0]), after.ahead(pairs[:, 1])
        rows = before.starts(pairs[:, 0])[:, None] + before.window_size + np.arange(6)
        earlier = torch.from_numpy(before.series.timestamps(rows) < np.datetime64(cut))
        assert earlier[:, 0].sum() >= 10, part
        assert torch.equal(first[earlier], other[earlier])
        felt |= not torch.equal(first, other)
        assert part == "test" or (earlier.all() and len(pairs) == len(before) == len(after))
    assert felt


def firsts(windows) -> list[tuple]:
    """Asset and first moment of each window."""
    index = np.arange(len(windows))
    return list(zip(windows.assets(index), windows.timestamps(index)[:, 0], strict=True))


# Sources whose bars are not ours: what they read is changed -----------------------------------------------------------

CLOSES = ["log_return", "window_log_price", "trailing_volatility_5", "normalised_return_5", "price_zscore_5"]
OWN = {  # source, features, start of validation, of test, and of the change
    "stocks": (Stocks, ALL_FEATURES, "2008-01-01", "2010-01-01", date(2011, 6, 1)),
    "panel": (SkfolioPanel, CLOSES, "2012-01-01", "2014-01-01", date(2016, 1, 4)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["per_asset", "panel"])
@pytest.mark.parametrize("name", OWN)
def test_no_source_of_a_package_looks_ahead(monkeypatch, name, layout, change):
    """The texts of its file are changed before it makes bars of them; the adjusted close of the stocks too."""
    source, features, val_start, test_start, cut = OWN[name]
    kept = {"stocks": ["AAPL", "IBM", "MSFT"], "panel": ["AAPL", "AMD", "BAC"]}[name]
    settings = {"assets": kept, "start": "2005-01-01", "adjusted": name == "stocks"}

    if name == "panel":
        installed("skfolio")
    modules = []
    for how in (None, change):
        monkeypatch.setattr(f"{source.__module__}.read_texts", partial(changed_texts, how, cut))
        modules.append(
            ready(
                BARS,
                source=source(table=table(**settings)),
                layout=layout,
                features=features,
                window_size=32,
                split=ByDate(val_start=val_start, test_start=test_start, embargo=0),
                checks=SOFT,
                max_masked=3,
            )
        )
    assert_nothing_before_changed(*modules, cut=cut)


def installed(package: str) -> None:
    """Skip the test if a package is not installed."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


def changed_texts(how: str | None, cut: date, path: Path, separator: str) -> pl.DataFrame:
    """The cells of a file whose numbers from a date on are others."""
    texts = read_texts(path, separator)
    words = [name for name in ("Date", "Ticker") if name in texts.columns]
    numbers = texts.select(pl.col("Date").str.to_date().alias("timestamp"), pl.exclude(words).cast(pl.Float64))
    other = changed(numbers, how, cut).drop("timestamp").cast(pl.String)
    return pl.concat([texts.select(words), other], how="horizontal")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_simulated_prices_do_not_look_ahead(layout, change):
    source = Synthetic(assets=3, bars=400, seed=0, volatility=0.015, anomalies=5.0, clean_fraction=0.5)
    bars = source.load()
    days = bars["timestamp"].unique().sort()
    split = ByDate(val_start=str(days[200]), test_start=str(days[270]), embargo=0)
    settings = {"features": ALL_FEATURES, "layout": layout, "split": split, "checks": SOFT, "max_masked": 3}
    modules = [ready(changed(bars, how, days[340]), **settings) for how in (None, change)]
    assert_nothing_before_changed(*modules, cut=days[340])


def test_every_source_is_here():
    assert {*SOURCES, *OWN, "synthetic", "series"} - {"csv adjusted"} == {
        path.stem for path in (Path(__file__).parents[2] / "conf/data").glob("*.yaml")
    }


LATER = {  # first bars, and all of them: a hole, other hours and another interval come later
    "a coin": (crypto(6), without(crypto(30), datetime(2024, 1, 9), datetime(2024, 1, 12))),
    "an exchange": (new_york(last=date(2024, 2, 15)), new_york(last=date(2024, 6, 1))),
    "an exchange that closes later": (
        new_york(last=date(2024, 2, 15)),
        pl.concat(
            [new_york(last=date(2024, 2, 15)), crypto(90, "5m").filter(crypto(90, "5m") > datetime(2024, 2, 16))]
        ),
    ),
    "an exchange in UTC": tuple(in_zone(new_york(last=date(2024, month, 15)), "America/New_York") for month in (2, 6)),
    "futures": (futures(datetime(2024, 2, 15)), futures(datetime(2024, 5, 1))),
    "days": (days_of("12345", last=date(2023, 9, 1)), days_of("12345", last=date(2024, 3, 1))),
}


@pytest.mark.parametrize("overnight", slow_but(["mask"], ["keep", "mask", "break"]))
@pytest.mark.parametrize("name", LATER)
def test_bars_that_come_later_change_no_earlier_window(name, overnight):
    """The timetable is inferred from the first bars: holes, closings, features and windows before stay."""
    first, later = LATER[name]
    dates = first.dt.date().unique().sort()
    split = ByDate(val_start=str(dates[len(dates) // 2]), test_start=str(dates[3 * len(dates) // 4]), embargo=0)
    settings = {"features": ["log_return", "trailing_volatility_5"], "split": split, "overnight": overnight}
    settings["checks"] = checks(mixed_interval="warn")
    short, long = (ready(walk(times), **settings) for times in (first, later))
    assert short.scaler == long.scaler
    for part in ("train", "val", "test"):
        before, after = short.windows(part), long.windows(part)
        index = np.arange(len(before))
        assert len(after) >= len(before) > 0
        assert np.array_equal(before.timestamps(index), after.timestamps(index))
        assert torch.equal(before.gather(index), after.gather(index))
        masks = [windows.mask(index) for windows in (before, after)]
        assert (masks[0] is None or masks[0].all()) if masks[1] is None else True
        assert masks[0] is None or masks[1] is None or torch.equal(*masks)
