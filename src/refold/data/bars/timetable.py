"""The timetable of an asset's bars: interval, days and hours, and words for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

DAY, WEEK = 86_400, 604_800  # seconds
CLOCKS = {"America/New_York": "New York", "Europe/London": "London", "Australia/Sydney": "Sydney"}
"""Zones with the kinds of daylight saving that exchanges have: Chicago changes with New York, Frankfurt with London."""

CLOSED_INTRADAY, CLOSED_DAILY = 1, 10
"""Days in a row without a bar that count as a closed market, where no exchange is named: one holiday of bars within the
day, two weeks of daily bars, since exchanges in China close for as long as eight days."""
ALL_WEEK = ((0.0, float(WEEK)),)
"""The hours of a market that never closes."""

SHORTEST = 1e-3
"""Seconds of the shortest interval that is read from a checkpoint: a week of shorter ones does not fit the memory."""

Unit = Literal["second", "day", "week", "month"]
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


MOST_SLACK = 2
"""Most bars in a row that may be missing and are no hole."""


@dataclass(frozen=True)
class Timetable:
    """The times at which an asset's bars come.

    Attributes:
        unit: what the interval is counted in. A day is one of the clock, which may have 23 or 25 hours. A week and a
            month hold one bar, on whatever day of them it comes.
        count: units from one bar to the next, above 0.
        phase: seconds (of unit second) or units from the origin of the clock to a slot, in [0, count).
        also: seconds of the day of bars that come off the grid day by day, such as a first hour that begins at 09:30.
        zone: zone of the clock; None is the clock of the timestamps themselves.
        hours: seconds of the week, from Monday 00:00 on, in which bars come, as [start, end) in order.
        regular: whether the bars keep to the timetable; if not, nothing is expected of them.
        grid: whether their times lie on the grid; if not, they are only said to come once in each slot.
        closed: days in a row without a bar that count as a closed market, at least 0.
        slack: bars in a row that may be missing and are no hole, at least 0: some recorders skip a moment now and then.
    """

    unit: Unit
    count: float
    phase: float
    also: tuple[float, ...]
    zone: str | None
    hours: tuple[tuple[float, float], ...]
    regular: bool
    grid: bool
    closed: int
    slack: int

    @property
    def intraday(self) -> bool:
        """True if a day has several bars."""
        return self.unit == "second"

    @property
    def always(self) -> bool:
        """True if the market never closes."""
        return self.hours == ALL_WEEK

    @property
    def seconds(self) -> float:
        """Length of the interval in seconds; about that of months."""
        return self.count * {"second": 1, "day": DAY, "week": WEEK, "month": 30.44 * DAY}[self.unit]

    @property
    def interval(self) -> str:
        """Words for the interval, such as `5 min`, `1 d`, `1 mo`."""
        if self.unit != "second":
            return f"{self.count:g} {'mo' if self.unit == 'month' else self.unit[0]}"
        for name, size in (("h", 3600), ("min", 60)):
            if self.count >= size and self.count % size == 0:
                return f"{self.count / size:g} {name}"
        return f"{self.count:g} s"

    @property
    def sessions(self) -> str:
        """Words for the days and hours, such as `Mon-Fri 09:30-16:00`, `24/7`, `irregular`."""
        if not self.regular:
            return "irregular"
        if self.unit in ("week", "month"):
            return "all year"
        if self.always:
            return "24/7" if self.intraday else "every day"
        days = [(int(start // DAY), start % DAY, end - start // DAY * DAY) for start, end in self.hours]
        if self.unit == "day":
            return _name_days([n for first, _, end in days for n in range(first, first + round(end / DAY))])
        return _hours(self.hours)

    @property
    def clock(self) -> str:
        """Words for the clock of the hours, such as `the clock of New York`."""
        return (
            "the clock of the timestamps" if self.zone is None else f"the clock of {CLOCKS.get(self.zone, self.zone)}"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the timetable as plain values, for JSON and checkpoints."""
        return {**asdict(self), "also": list(self.also), "hours": [list(pair) for pair in self.hours]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Timetable":
        """Make a timetable of what `to_plain` returned.

        Args:
            plain: its values.

        Raises:
            ValueError: a value is not one that `to_plain` returns.
        """
        hours = tuple((start, end) for start, end in plain["hours"])
        one = cls(**{**plain, "also": tuple(plain["also"]), "hours": hours})
        inside = [*one.also, *(moment for pair in hours for moment in pair)]
        if (
            one.unit not in get_args(Unit)
            or not _is_number_between(one.count, SHORTEST, 1e9)
            or not _is_number_between(one.phase, 0, one.count)
            or not all(_is_number_between(moment, 0, 2 * WEEK) for moment in inside)
            or not all(start < end for start, end in hours)
            or (one.regular and not hours)
            or not _is_number_between(one.closed, 0, 1e9)
            or not _is_number_between(one.slack, 0, MOST_SLACK)
        ):
            raise ValueError(f"its timetable {str(dict(plain))[:200]!r} is out of bounds")
        if one.zone is not None:
            ZoneInfo(one.zone)
        return one


def _is_number_between(value: Any, least: float, most: float) -> bool:
    """Test whether a value is a number in [least, most]."""
    return isinstance(value, int | float) and least <= value <= most


def _time(second: float) -> str:
    minute = int(second // 60)
    text = f"{minute // 60:02}:{minute % 60:02}"
    return text if second % 60 == 0 else f"{text}:{second % 60:02g}"


def _name_days(days: list[int]) -> str:
    """Name days of the week: `Mon-Fri`, `Sun-Thu`, `Mon, Wed`."""
    if len(days) > 2:
        for first in range(7):
            if sorted((first + n) % 7 for n in range(len(days))) == sorted(days):
                return f"{_DAYS[first]}-{_DAYS[(first + len(days) - 1) % 7]}"
    return ", ".join(_DAYS[day] for day in sorted(days))


def _hours(hours: tuple[tuple[float, float], ...]) -> str:
    """Describe hours of the week, days with the same ones once; sessions across midnight as one."""
    joined = [list(pair) for pair in hours]
    if len(joined) > 1 and abs(joined[0][0] + WEEK - joined[-1][1]) < 1e-6:  # from Sunday into Monday
        joined[0][0] = joined.pop()[0] - WEEK
    by_hours: dict[str, list[int]] = {}
    if any(end - start > DAY for start, end in joined):
        return ", ".join(f"{_moment(start)} to {_moment(end)}" for start, end in joined)
    spans: dict[int, list[str]] = {}
    for start, end in joined:
        spans.setdefault(int(start // DAY) % 7, []).append(f"{_time(start % DAY)}-{_time(end % DAY)}")
    for day, texts in sorted(spans.items()):
        by_hours.setdefault(" and ".join(texts), []).append(day)
    return ", ".join(f"{_name_days(days)} {text}" for text, days in by_hours.items())


def _moment(second: float) -> str:
    return f"{_DAYS[int(second // DAY) % 7]} {_time(second % DAY)}"
