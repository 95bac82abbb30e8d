"""Holes, closings and intervals of look-alikes of markets, from the checks to the windows."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import pipeline
from refold.data.bars.expected import find_timetables
from refold.errors import DataError
from tests.data.lookalikes import crypto, days_of, futures, in_zone, new_york, walk, without
from tests.data.makers import checks, ready

NEW_YORK = new_york(date(2024, 1, 2), date(2024, 4, 1))
CRYPTO = crypto(4)
FEATURES = {"features": ["log_return"], "window_size": 8}


def gaps(bars: pl.DataFrame, **settings) -> list[tuple]:
    """The findings of gaps: asset, bars, first."""
    found = checks(**settings).run(bars).table.filter(pl.col("check") == "gap")
    return found.select("asset", "bars", "first").rows()


def test_a_hole_of_two_days_ends_a_series_of_one_asset():
    times = without(crypto(8), datetime(2024, 1, 3, 5), datetime(2024, 1, 5, 5))
    bars = walk(times)
    assert gaps(bars) == [("A", 2880, "2024-01-03 05:00:00.000000")]
    data = ready(bars, **FEATURES)
    for part in ("train", "val", "test"):
        windows = data.windows(part)
        stamps = windows.timestamps(np.arange(len(windows)))
        assert (np.diff(stamps, axis=1) == np.timedelta64(60, "s")).all()
    assert len(data.train_windows) == len(ready(bars, **FEATURES, checks=checks(interval="none")).train_windows) - 8


@pytest.mark.parametrize(
    ("first", "last", "settings", "bars"),
    [
        (date(2024, 2, 6), date(2024, 2, 8), {}, 156),
        (date(2024, 2, 6), date(2024, 2, 7), {}, None),
        (date(2024, 2, 6), date(2024, 2, 7), {"calendar": "XNYS"}, 78),
        (date(2024, 2, 6), date(2024, 2, 7), {"calendar": "weekdays"}, 4 * 78),  # with three holidays
        (datetime(2024, 2, 6, 11), datetime(2024, 2, 6, 12), {}, 12),
        (datetime(2024, 2, 6, 11), datetime(2024, 2, 6, 12), {"interval": "5m"}, 12),
        (datetime(2024, 2, 6, 11), datetime(2024, 2, 6, 12), {"interval": "none"}, None),
        (datetime(2024, 2, 6, 11), datetime(2024, 2, 6, 12), {"calendar": None}, None),
    ],
)
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_holes_of_exchange_hours(first, last, settings, bars, zone):
    times = without(NEW_YORK, first, last)
    times = times if zone is None else in_zone(times, zone)
    assert sum(count for _, count, _ in gaps(walk(times), **settings)) == (bars or 0)


def test_nights_holidays_and_early_closes_are_no_holes():
    for times in (new_york(), futures(), in_zone(futures(), "America/Chicago")):
        assert checks().run(walk(times)).table.filter(pl.col("check") != "split_like").rows() == []


def test_a_hole_that_is_masked_gets_the_bars_it_lacks():
    bars = walk(without(CRYPTO, datetime(2024, 1, 2, 5), datetime(2024, 1, 2, 5, 3)))
    checked = checks(gap="mask").run(bars)
    assert checked.bars["close"].null_count() == 3
    assert checked.bars["timestamp"].equals(walk(CRYPTO)["timestamp"])
    assert not checked.hole.any()
    data = ready(bars, **FEATURES, checks=checks(gap="mask"), max_masked=4)
    assert data.segments("train")[0, 0] == 1  # the first bar has no return
    assert abs(len(data.train_windows) - len(ready(walk(CRYPTO), **FEATURES).train_windows)) <= 2  # of 3 bars fewer


def test_a_whole_market_that_stands_still_is_a_hole_of_all_assets():
    bars = pl.concat([walk(without(CRYPTO, date(2024, 1, 2), date(2024, 1, 3)), name) for name in "AB"])
    assert gaps(bars) == [(name, 1440, "2024-01-02 00:00:00.000000") for name in "AB"]


def test_assets_of_other_hours_are_no_peers():
    """New York's nights are no holes because a coin trades then; its hours are, where the coin alone has bars."""
    coin = walk(crypto(90, "5m"), "COIN")
    assert gaps(pl.concat([walk(NEW_YORK, "NY"), coin])) == []
    one_day = walk(without(NEW_YORK, date(2024, 2, 6), date(2024, 2, 7)), "NY")
    assert gaps(pl.concat([one_day, coin])) == []  # as far as it is known, a holiday
    assert gaps(pl.concat([one_day, coin, walk(NEW_YORK, "PEER")])) == [("NY", 78, "2024-02-06 09:30:00.000000")]


def test_daily_bars_of_weekdays_are_no_peers_of_those_of_every_day():
    bars = pl.concat([walk(days_of("12345"), "STOCK"), walk(days_of("1234567"), "COIN")])
    assert gaps(bars) == []


def test_a_bar_off_the_grid_is_found():
    times = NEW_YORK.to_list()
    times[500] += timedelta(seconds=90)
    found = checks().run(walk(pl.Series("timestamp", times))).table
    assert found.select("check", "policy", "asset", "bars", "first").rows() == [
        ("off_grid", "warn", "A", 1, str(times[500]) + ".000000")
    ]


def test_assets_of_different_intervals_are_refused_or_said():
    bars = pl.concat([walk(NEW_YORK[:400], "MINUTES"), walk(days_of("12345", date(2024, 1, 2)), "DAYS")])
    with pytest.raises(DataError) as error:
        ready(bars, **FEATURES)
    assert str(error.value) == (
        "the assets have bars of different intervals, 1 d (DAYS), 5 min (MINUTES): choose those of one with "
        "data.source.table.assets. data.checks.policies.mixed_interval is error; it can be warn"
    )
    data = ready(bars, **FEATURES, checks=checks(mixed_interval="warn"))
    assert data.findings.rows() == [("mixed_interval", "warn", "MINUTES", 400, None)]


@pytest.mark.parametrize("finer", [True, False])
def test_an_interval_that_changes_is_found(finer):
    """Days that become hours, and hours of a market that never closes that become days."""
    days, hours = days_of("1234567", last=date(2023, 6, 1)), crypto(60, "1h")
    if finer:
        times = pl.concat([days.cast(pl.Datetime("us")), hours])
    else:
        times = pl.concat([hours, (days + timedelta(days=500)).cast(pl.Datetime("us"))]).sort()
    with pytest.raises(DataError, match="its bars come at another interval than those before"):
        ready(walk(times), **FEATURES)
    found = checks(mixed_interval="warn").run(walk(times)).table.filter(pl.col("check") == "mixed_interval")
    assert found["bars"].sum() > 100
    change = len(days) if finer else len(hours)
    assert timedelta(0) < datetime.fromisoformat(found["first"][0]) - times[change] <= timedelta(days=20)


def test_a_timetable_is_that_of_the_first_bars():
    bars = walk(NEW_YORK)
    found = find_timetables(bars.lazy(), 1, None, None)
    assert found.describe() == ["every 5 min (A), Mon-Fri 09:30-16:00, the clock of the timestamps"]
    assert find_timetables(bars[:2000].lazy(), 1, None, None) == found


def test_bars_of_a_thin_market_are_not_expected():
    kept = pl.Series(np.random.default_rng(0).random(len(NEW_YORK)) < 0.7)
    assert gaps(walk(NEW_YORK.filter(kept))) == []
    assert "no regular interval (A): usually 5 min" in ready(walk(NEW_YORK.filter(kept)), **FEATURES).description


def test_of_an_asset_with_few_bars_among_bars_within_the_day_none_is_expected():
    """Twelve bars, a day apart, beside bars of a minute: 11 x 1,439 others were missing."""
    few = walk(CRYPTO, "B").gather_every(1440).head(12)
    assert gaps(pl.concat([walk(CRYPTO, "A"), few])) == []
    days = walk(days_of("12345"), "A")
    few = walk(days_of("12345"), "B")[:15].filter(pl.int_range(pl.len()) != 7)
    assert [(asset, bars) for asset, bars, _ in gaps(pl.concat([days, few]))] == [("B", 1)]


def test_the_interval_is_said():
    assert "bars every 1 min (A), 24/7" in ready(walk(CRYPTO), **FEATURES).description


def test_wrong_intervals_are_refused():
    with pytest.raises(DataError, match=r"another interval than those before, or than data\.checks\.interval"):
        checks(interval="10m").run(walk(NEW_YORK))
    with pytest.raises(ValueError, match=r"data\.checks\.interval is 'daily'; it must be null"):
        checks(interval="daily")


@pytest.mark.parametrize("overnight", ["keep", "mask", "break"])
def test_returns_over_a_night_are_kept_masked_or_break_the_series(overnight):
    data = ready(walk(NEW_YORK), **FEATURES, overnight=overnight)
    assert f"(data.overnight={overnight})" in data.description
    windows = data.train_windows
    stamps, mask = windows.timestamps(np.arange(len(windows))), windows.mask(np.arange(len(windows)))
    after_night = np.diff(stamps, axis=1, prepend=stamps[:, :1]) > np.timedelta64(5, "m")
    if overnight == "break":
        assert not after_night.any()
        assert mask is None
    elif overnight == "keep":
        assert after_night.any()
        assert mask is None
    else:
        first = stamps.astype("datetime64[m]").astype(int) % 1440 == 570
        assert np.array_equal(~mask.numpy(), first)
        assert len(windows) >= len(ready(walk(NEW_YORK), **FEATURES, overnight="keep").train_windows) - 8


def test_features_within_a_bar_are_not_masked_after_a_night():
    data = ready(walk(NEW_YORK), features=["intraday_return", "relative_volume_5"], window_size=8, overnight="mask")
    assert data.train_windows.mask([0]) is None


@pytest.mark.parametrize("overnight", ["keep", "mask", "break"])
def test_overnight_changes_nothing_where_the_market_never_closes_or_bars_are_days(overnight):
    for bars in (walk(CRYPTO), walk(days_of("12345"))):
        changed, kept = (ready(bars, **FEATURES, overnight=choice) for choice in (overnight, "keep"))
        assert np.array_equal(changed.segments("train"), kept.segments("train"))
        assert changed.train_windows.mask([0]) is None
        assert "data.overnight" not in changed.description


def test_windows_of_one_masked_bar_are_refused():
    with pytest.raises(ValueError, match=r"data\.shortest_window is 1; it must be at least 2 with data"):
        ready(walk(NEW_YORK), **FEATURES, overnight="mask", shortest_window=1)


def test_windows_lost_are_counted_by_policy():
    """A hole of three minutes costs the windows over it, and those of the look-back after it."""
    bars = walk(without(CRYPTO, datetime(2024, 1, 2, 5), datetime(2024, 1, 2, 5, 3)))
    data = ready(bars, **FEATURES)
    assert data.windows_lost == {"holes": 8, "masked": 0, "policies": {"gap": "warn"}}
    assert "windows lost to holes: 8, to masked bars: 0 (gap warn)" in data.description
    masked = ready(bars, **FEATURES, checks=checks(gap="mask"))
    assert masked.windows_lost == {"holes": 0, "masked": 8 + 3, "policies": {"gap": "mask"}}
    assert ready(walk(CRYPTO), **FEATURES).windows_lost == {"holes": 0, "masked": 0, "policies": {}}


@pytest.mark.parametrize(("overnight", "scale"), [("mask", "pooled"), ("break", "pooled"), ("break", "trailing")])
def test_a_cache_holds_what_memory_does(tmp_path, monkeypatch, overnight, scale):
    """Also a cache that is built as if memory held one asset."""
    monkeypatch.setattr(pipeline, "BARS", 1000)
    times = without(NEW_YORK, datetime(2024, 2, 6, 11), datetime(2024, 2, 8, 12))
    bars = pl.concat([walk(times, "A"), walk(NEW_YORK, "B", seed=1)])
    settings = {**FEATURES, "overnight": overnight, "scale": scale, "scale_lookback": 100}
    memory, cached = ready(bars, **settings), ready(bars, **settings, cache=str(tmp_path))
    assert memory.description == cached.description
    assert memory.windows_lost == cached.windows_lost
    assert memory.recipe.checks.timetables == cached.recipe.checks.timetables
    for part in ("train", "val", "test"):
        assert np.array_equal(memory.segments(part), cached.segments(part))
        held, mapped = memory.windows(part), cached.windows(part)
        assert torch.equal(held.gather(np.arange(len(held))), mapped.gather(np.arange(len(held))))
    cached.prepare_data()  # as Lightning does after setup: the key of the folder is the same
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 1
