"""Intervals and hours of look-alikes of markets: what is inferred, what is missing, what is off the grid."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from refold.data.bars.calendar import sessions
from refold.data.bars.expected import find_timetables
from refold.data.bars.holes import missing_times, off_grid, read_steps
from refold.data.bars.intervals import describe_timetables, infer, parse_interval
from refold.data.bars.timetable import Timetable
from tests.data.lookalikes import crypto, currency, days_of, every, futures, in_zone, new_york, tokyo, without

NEW_YORK, FUTURES, CURRENCY = new_york(), futures(), currency()
LONDON_DAYS = in_zone(days_of("12345").cast(pl.Datetime("us")), "Europe/London")
MONTH_ENDS = pl.date_range(date(2010, 1, 31), date(2024, 1, 31), "1mo", eager=True).dt.month_end()
EXCHANGE = "Mon-Fri 09:30-16:00"

MARKETS = {
    "crypto": (crypto(), "1 min", "24/7", None),
    "crypto, a week with a hole of two days": (
        without(crypto(7), date(2024, 1, 3), date(2024, 1, 5)),
        "1 min",
        "24/7",
        None,
    ),
    "crypto over a change of Berlin's clock": (
        in_zone(every(datetime(2024, 3, 1), datetime(2024, 4, 20), "1m"), "UTC").dt.convert_time_zone("Europe/Berlin"),
        "1 min",
        "24/7",
        None,
    ),
    "crypto, days": (days_of("1234567"), "1 d", "every day", None),
    "seven minutes": (every(datetime(2024, 1, 2), datetime(2024, 3, 2), "7m"), "7 min", "24/7", None),
    "New York": (NEW_YORK, "5 min", EXCHANGE, None),
    "New York, with its zone": (NEW_YORK.dt.replace_time_zone("America/New_York"), "5 min", EXCHANGE, None),
    "New York, told in UTC": (in_zone(NEW_YORK, "America/New_York"), "5 min", EXCHANGE, "America/New_York"),
    "New York, in UTC without saying so": (
        in_zone(NEW_YORK, "America/New_York").dt.replace_time_zone(None),
        "5 min",
        EXCHANGE,
        "America/New_York",
    ),
    "New York, hours from 09:30, 10:00, 11:00 on": (
        NEW_YORK.filter((NEW_YORK.dt.minute() == 0) | (NEW_YORK.dt.to_string("%H:%M") == "09:30")),
        "1 h",
        "Mon-Fri 09:00-16:00",
        None,
    ),
    "New York, days": (sessions("XNYS", date(2020, 1, 1), date(2024, 1, 1)), "1 d", "Mon-Fri", None),
    "futures": (FUTURES, "5 min", "Sun-Thu 17:00-16:00", None),
    "futures, told in UTC": (in_zone(FUTURES, "America/Chicago"), "5 min", "Sun-Thu 18:00-17:00", "America/New_York"),
    "Tokyo": (tokyo(), "1 min", "Mon-Fri 09:00-11:30 and 12:30-15:00", None),
    "Sydney, told in UTC": (
        in_zone(tokyo(280).filter(tokyo(280).dt.hour() >= 10), "Australia/Sydney"),
        "1 min",
        "Mon-Fri 10:00-11:30 and 12:30-15:00",
        "Australia/Sydney",
    ),
    "currencies, told in UTC": (CURRENCY, "1 h", "Sun 17:00 to Fri 17:00", "America/New_York"),
    "currencies, four hours": (
        currency(hours=(1, 5, 9, 13, 17, 21)),
        "4 h",
        "Sun 17:00 to Fri 17:00",
        "America/New_York",
    ),
    "currencies, days in UTC": (currency(hours=(17,)), "1 d", "Sun-Thu", "America/New_York"),
    "London's midnights, told in UTC": (LONDON_DAYS, "1 d", "Mon-Fri", "Europe/London"),
    "Riyadh, days": (days_of("71234"), "1 d", "Sun-Thu", None),
    "weeks": (days_of("5"), "1 w", "all year", None),
    "months": (pl.date_range(date(2010, 1, 1), date(2024, 1, 1), "1mo", eager=True), "1 mo", "all year", None),
    "ends of months": (MONTH_ENDS, "1 mo", "all year", None),
    "quarters": (MONTH_ENDS.gather_every(3), "3 mo", "all year", None),
}


def holes(timetable: Timetable, times: pl.Series, open_days: pl.Series | None = None) -> tuple[int, int, list[str]]:
    """Number of holes and of missing bars, and the first and last of these."""
    steps = read_steps(timetable, times[:-1], times[1:], open_days)
    missing = missing_times(timetable, steps, times[:-1], open_days)[1]
    assert len(missing) == 0 or not missing.is_in(times.implode()).any()
    return int((steps.missing > 0).sum()), len(missing), [str(moment) for moment in missing[:1].append(missing[-1:])]


@pytest.mark.parametrize("name", MARKETS)
def test_interval_hours_and_clock_of_a_market_are_inferred(name):
    times, interval, hours, zone = MARKETS[name]
    found = infer(times)
    assert (found.interval, found.sessions, found.zone, found.regular, found.grid) == (
        interval,
        hours,
        zone,
        True,
        True,
    )
    assert Timetable.from_plain(found.to_plain()) == found
    assert not off_grid(found, times).any()
    if "hole" not in name:
        assert holes(found, times)[:2] == (0, 0)


def test_thin_trade_has_no_timetable_to_keep():
    kept = np.random.default_rng(0).random(len(NEW_YORK)) < 0.7
    found = infer(NEW_YORK.filter(pl.Series(kept)))
    assert (found.interval, found.regular, found.sessions) == ("5 min", False, "irregular")
    assert infer(NEW_YORK.filter(pl.Series(kept)), interval="5m").regular
    assert infer(NEW_YORK[:19]) is None


@pytest.mark.parametrize("skips", [1, 2])
def test_a_recorder_that_skips_a_moment_now_and_then_has_holes_only_where_more_is_missing(skips):
    """As SKAB's files: 1,148 rows in 1,200 seconds."""
    times = every(datetime(2020, 3, 9, 10, 14, 33), datetime(2020, 3, 9, 10, 34, 32), "1s")
    row = np.arange(len(times))
    kept = (row % (23 * skips) >= skips) | (row < 23)
    found = infer(times.filter(pl.Series(kept)))
    assert (found.interval, found.regular, found.slack) == ("1 s", True, skips)
    assert holes(found, times.filter(pl.Series(kept)))[:2] == (0, 0)
    assert f"often with {skips} missing" in describe_timetables({"A": found})[0]
    left_out = (row > 600) & (row < 660)
    assert holes(found, times.filter(pl.Series(kept & ~left_out)))[0] == 1
    assert infer(times.filter(pl.Series(kept)), interval="1s").slack == 0  # held to what it is told
    assert infer(times).slack == 0


def test_a_skipped_moment_is_no_closed_market():
    times = every(datetime(2020, 3, 9, 10), datetime(2020, 3, 9, 10, 20), "1s")
    times = times.filter(pl.Series(np.arange(len(times)) % 23 > 0))
    steps = read_steps(infer(times), times[:-1], times[1:])
    assert (steps.slots > 1).any()
    assert not steps.closing.any()


@pytest.mark.parametrize(
    ("times", "first", "last", "expected"),
    [
        (
            crypto(),
            datetime(2024, 1, 9, 3),
            datetime(2024, 1, 11, 3),
            (1, 2880, ["2024-01-09 03:00:00", "2024-01-11 02:59:00"]),
        ),
        (NEW_YORK, date(2024, 5, 7), date(2024, 5, 9), (1, 156, ["2024-05-07 09:30:00", "2024-05-08 15:55:00"])),
        (NEW_YORK, date(2024, 5, 7), date(2024, 5, 8), (0, 0, [])),  # one day: a holiday, for all that is known
        (
            NEW_YORK,
            datetime(2024, 5, 7, 11),
            datetime(2024, 5, 7, 12),
            (1, 12, ["2024-05-07 11:00:00", "2024-05-07 11:55:00"]),
        ),
        (
            NEW_YORK,
            datetime(2024, 5, 7, 11),
            datetime(2024, 5, 7, 20),
            (1, 60, ["2024-05-07 11:00:00", "2024-05-07 15:55:00"]),
        ),
        (NEW_YORK, datetime(2024, 5, 7, 13), datetime(2024, 5, 7, 20), (0, 0, [])),  # an early close
        (
            FUTURES,
            datetime(2024, 5, 7, 3),
            datetime(2024, 5, 7, 6),
            (1, 36, ["2024-05-07 03:00:00", "2024-05-07 05:55:00"]),
        ),
        (
            FUTURES,
            datetime(2024, 5, 7, 3),
            datetime(2024, 5, 9, 3),
            (1, 552, ["2024-05-07 03:00:00", "2024-05-09 02:55:00"]),
        ),
        (MARKETS["New York, days"][0], date(2022, 5, 7), date(2022, 5, 20), (0, 0, [])),
        (MARKETS["New York, days"][0], date(2022, 5, 7), date(2022, 6, 7), (1, 21, ["2022-05-09", "2022-06-06"])),
        (days_of("1234567"), date(2023, 5, 7), date(2023, 5, 8), (1, 1, ["2023-05-07", "2023-05-07"])),
        (days_of("5"), date(2023, 5, 1), date(2023, 5, 14), (1, 2, ["2023-05-05", "2023-05-12"])),
        (MONTH_ENDS, date(2015, 5, 1), date(2015, 8, 1), (1, 3, ["2015-05-30", "2015-07-30"])),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, (date, tuple)) else "",
)
def test_holes_are_what_is_no_closed_market(times, first, last, expected):
    assert holes(infer(times), without(times, first, last)) == expected


def test_days_of_an_exchange_say_which_days_are_missing():
    open_days = sessions("XNYS", date(2024, 1, 1), date(2025, 2, 1))
    timetable = infer(NEW_YORK)
    assert holes(timetable, NEW_YORK, open_days)[:2] == (0, 0)
    assert holes(timetable, without(NEW_YORK, date(2024, 5, 7), date(2024, 5, 8)), open_days)[:2] == (1, 78)
    # Memorial Day, the 27th, is not among the missing
    assert holes(timetable, without(NEW_YORK, date(2024, 5, 24), date(2024, 5, 29)), open_days)[:2] == (1, 156)


def test_hours_that_are_given_have_no_holidays():
    times = without(NEW_YORK, date(2024, 1, 20), date(2025, 2, 1))
    assert holes(infer(times, week="weekdays"), times)[1] == 78  # Martin Luther King's day
    days = MARKETS["New York, days"][0]
    assert holes(infer(days, week="24x7"), days[:5])[1] == 2
    assert infer(days, week="24x7").sessions == "every day"


def test_a_bar_between_two_places_is_off_the_grid():
    times = NEW_YORK.to_list()
    times[500] += timedelta(seconds=90)
    assert np.flatnonzero(off_grid(infer(NEW_YORK), pl.Series(times))).tolist() == [500]
    days = MARKETS["New York, days"][0]
    saturday = pl.concat([days, pl.Series("timestamp", [date(2022, 5, 7)])]).sort()
    assert np.flatnonzero(off_grid(infer(saturday), saturday)).tolist() == [saturday.index_of(date(2022, 5, 7))]


def test_closings_are_steps_over_the_hours_without_bars():
    steps = read_steps(infer(NEW_YORK), NEW_YORK[:-1], NEW_YORK[1:])
    assert steps.closing.sum() == NEW_YORK.dt.date().n_unique() - 1
    futures_steps = read_steps(infer(FUTURES), FUTURES[:-1], FUTURES[1:])
    closed = (FUTURES[1:] - FUTURES[:-1]) > timedelta(minutes=5)
    assert np.array_equal(futures_steps.closing, closed.to_numpy())
    assert not read_steps(infer(crypto()), crypto()[:-1], crypto()[1:]).closing.any()


@pytest.mark.parametrize("name", [name for name, market in MARKETS.items() if len(market[0]) > 250])
def test_bars_that_come_later_do_not_change_the_timetable(name):
    """What is said of the first four months is the same with and without what comes after."""
    times = MARKETS[name][0]
    head = (
        times.filter(times < times[0] + timedelta(days=122))
        if times[120] - times[0] < timedelta(days=122)
        else times[:120]
    )
    short, long = infer(head), infer(times)
    assert (short.interval, short.sessions if short.zone == long.zone else "") == (
        long.interval,
        long.sessions if short.zone == long.zone else "",
    )
    assert holes(short, head) == holes(long, head) == (0, 0, []) or "hole" in name


def test_a_single_wrong_date_changes_nothing():
    times = pl.concat([pl.Series("timestamp", [datetime(1970, 1, 1)]), crypto(10)])
    found = infer(times)
    assert (found.interval, found.sessions) == ("1 min", "24/7")
    assert holes(found, times)[:2] == (1, 100_000)  # no more are written out


def test_assets_with_the_same_timetable_are_named_together():
    frames = [
        pl.DataFrame({"timestamp": times.cast(pl.Datetime("us")), "asset": name})
        for name, times in (
            ("A", NEW_YORK[:800]),
            ("B", NEW_YORK[:800]),
            ("SPX", days_of("12345")),
            ("X", NEW_YORK[:5]),
        )
    ]
    found = find_timetables(pl.concat(frames).sort("asset", "timestamp").lazy(), len(frames), None, None).of
    assert list(found) == ["SPX", "A", "B", "X"]  # by their first bars
    assert describe_timetables(found) == [
        "every 1 d (SPX), Mon-Fri",
        f"every 5 min (A, B), {EXCHANGE}, the clock of the timestamps",
        "too few bars for an interval (X): fewer than 20",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", ("second", 300)),
        ("1h", ("second", 3600)),
        ("90s", ("second", 90)),
        ("24h", ("day", 1)),
        ("3mo", ("month", 3)),
    ],
)
def test_intervals_are_read(text, expected):
    assert parse_interval(text) == expected


@pytest.mark.parametrize("text", ["5", "m5", "0m", "5 years", "1.5d", "36h", "-5m", ""])
def test_other_intervals_are_refused(text):
    with pytest.raises(ValueError, match=r"data\.checks\.interval is "):
        parse_interval(text)
