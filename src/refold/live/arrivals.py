"""The checks of bars as they arrive, each from the bar and those of its asset before it.

The twin of `refold.data.bars.checks.Checks.run` for the newest bar of some assets. Letters: n bars of one moment, each
of another asset, C columns.
"""

import math
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.calendar import sessions
from refold.data.bars.expected import CHANGED, NOTHING, OF
from refold.data.bars.findings import CHECKS
from refold.data.bars.holes import missing_times, off_grid, read_steps
from refold.data.bars.market import SPLIT_RATIOS, UNIT_RATIOS
from refold.data.bars.table import PRICES
from refold.data.bars.timetable import DAY, WEEK
from refold.live.clock import DATES, NAIVE, Clock
from refold.live.past import NEVER, Kept, Past
from refold.live.peers import KEPT, Peers
from refold.live.traits import Traits

NAMES = tuple(CHECKS)
BIT = {name: 1 << number for number, name in enumerate(NAMES)}
"""Check -> its bit in a number that says which checks found something."""

WEEK_US = WEEK * 1_000_000

MOST_TIMES = 50_000
"""Times of the week that are remembered to be on the grid or off it: those of bars of 12 seconds."""

_SPLITS, _UNITS = np.log(SPLIT_RATIOS), np.log(UNIT_RATIOS)


class Arrived(NamedTuple):
    """Hold what the checks find in n bars.

    Attributes:
        found: (n,) bits of the checks that found something.
        masked: (n,) bool, whether the bar keeps its place without values.
        dropped: (n,) bool, whether it is taken out.
        lost: (n,) bars that are missing right before it.
        lost_times: for each bar with missing ones, their times.
        hole: (n,) bool, whether the series breaks before it.
        closing: (n,) bool, whether the market closed before it, as it does every day.
    """

    found: np.ndarray
    masked: np.ndarray
    dropped: np.ndarray
    lost: np.ndarray
    lost_times: dict[int, np.ndarray]
    hole: np.ndarray
    closing: np.ndarray


class _Read(NamedTuple):
    """The verdict of a timetable on n steps: missing bars, closings of the market, and times of the missing bars."""

    missing: np.ndarray
    closing: np.ndarray
    times: dict[int, np.ndarray]


class Arrivals:
    """Check bars as they arrive, and record them as raw bars of the past.

    Args:
        past: of the assets.
        peers: what all assets did.
        traits: what the run says of the assets.
        clock: of the times.
    """

    def __init__(self, past: Past, peers: Peers, traits: Traits, clock: Clock) -> None:
        self.past, self.peers, self.traits, self.clock = past, peers, traits, clock
        self.checks = traits.checks
        self.timetables = self.checks.timetables or NOTHING
        self.place = {name: number for number, name in enumerate(past.columns)}
        self.acting = {
            policy: sum(BIT[name] for name, own in self.checks.policies.items() if own in which)
            for policy, which in (("mask", ("mask", "error")), ("drop", ("drop",)))
        }
        self.prices = self.checks.kind == "prices" and "close" in self.place
        self.of_price = [self.place[name] for name in PRICES if name in self.place]
        self.fills = self.checks.policies["gap"] == "mask"
        self._days = pl.Series("timestamp", [], dtype=pl.Date)
        self._years: tuple[int, int] | None = None
        self._week: dict[tuple[int, int], bool] = {}
        self._of_time: tuple[int, dict[int, bool], bool] = (0, {}, False)

    def register(self, places: np.ndarray, time: int, values: np.ndarray, absent: np.ndarray) -> None:
        """Count bars of one moment among those of all assets, before any of them is checked.

        Args:
            places: (n,) different assets.
            time: of the bars, later than those before.
            values: (n, C) float64.
            absent: (n, C) bool.
        """
        jump, known = self._jump(values, absent, *self._before(places))
        self.peers.add(time, jump, known, self.traits.kind[places])

    def recount(self, place: int, kept: Kept, numbers: list[int], sign: int) -> None:
        """Take bars of an asset out of what all assets did, or put them in, as its jumps tell.

        Args:
            place: of the asset.
            kept: its bars.
            numbers: of the bars among those; numbers beyond the newest are passed over.
            sign: -1 or 1.
        """
        close = self.place.get("close", 0)
        price, kind = self.place.get("open", close), self.traits.kind[[place]]
        for number in numbers:
            if number >= len(kept.times):
                continue
            known = self.prices and number > 0
            known = known and not (kept.absent[number, price] or kept.absent[number - 1, close])
            with np.errstate(all="ignore"):
                jump = np.log(kept.values[number, [price]] / kept.values[max(0, number - 1), [close]])
            self.peers.add(int(kept.times[number]), jump, np.array([known]), kind, sign)

    def check(self, places: np.ndarray, time: int, values: np.ndarray, absent: np.ndarray) -> Arrived:
        """Check bars of one moment, and record them; see `register`."""
        past, arrays = self.past, self.past.arrays
        bars = arrays["bars"][places]
        before = arrays["time"][places, (bars - 1) % past.kept]
        first = before == NEVER
        found = self._values(places, time, values, absent)
        step = self._read(places, np.where(first, time, before), time)
        if step.times and self.checks.calendar is not None:
            for times in step.times.values():
                for missing in times[-KEPT // 2 :].tolist():
                    self.peers.find(missing)
        found |= self._of_times(places, time, first, before, step.missing, bars)
        past.put("time", places, bars, time)
        past.put("raw", places, bars, values)
        past.put("raw_absent", places, bars, absent)
        arrays["bars"][places] += 1
        dropped = (found & self.acting["drop"]) != 0
        masked = (found & self.acting["mask"]) != 0
        return self._gaps(places, time, found, masked, dropped, before, step)

    # ---- values ------------------------------------------------------------------------------------------------------

    def _before(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values (n, C) of the bar before, and where it has none."""
        number = (self.past.arrays["bars"][places] - 1) % self.past.kept
        return self.past.arrays["raw"][places, number], self.past.arrays["raw_absent"][places, number]

    def _jump(
        self, values: np.ndarray, absent: np.ndarray, before: np.ndarray, lacked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log ratios (n,) to the last close, and where there is one."""
        if not self.prices:
            return np.zeros(len(values)), np.zeros(len(values), dtype=bool)
        close = self.place["close"]
        price = self.place.get("open", close)
        known = ~absent[:, price] & ~lacked[:, close]
        return np.log(values[:, price] / before[:, close]), known

    def _values(self, places: np.ndarray, time: int, values: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Return the bits (n,) of the checks of values; see `refold.data.bars.faults`."""
        place, there = self.place, ~absent
        found = np.zeros(len(places), dtype=np.int32)
        before, lacked = self._before(places)
        if len(places) == 1 and self._is_plain(int(places[0]), values, absent, before, lacked):
            return found

        def add(name: str, flags: np.ndarray | np.bool) -> None:
            found[flags] |= BIT[name]

        add("missing_value", absent.any(axis=1))
        add("not_finite", (there & ~np.isfinite(values)).any(axis=1))
        still = self._still(places, values, absent, before, lacked)
        longest = self.checks.stale_bars - 1
        if self.checks.kind == "series":
            add("stale_run", (still >= longest).all(axis=1) & (there & (values != 0)).any(axis=1))
            return found
        wrong = (there[:, self.of_price] & (values[:, self.of_price] <= 0)).any(axis=1)
        if "volume" in place:
            wrong |= there[:, place["volume"]] & (values[:, place["volume"]] < 0)
        add("non_positive", wrong)
        if "low" in place and "high" in place:
            add("broken_bar", self._broken(np.where(absent, np.nan, values), there))
        if "close" not in place:
            return found
        add("stale_run", still[:, place["close"]] >= longest)
        jump, known = self._jump(values, absent, before, lacked)
        size, tolerance = np.abs(jump)[:, None], self.checks.split_tolerance
        if not (known & (size[:, 0] > _SPLITS[0] - tolerance)).any():
            return found
        split = known & (np.abs(size - _SPLITS) < tolerance).any(axis=1)
        add("unit_like", known & (np.abs(size - _UNITS) < tolerance).any(axis=1))
        if split.any():
            up, down = self.peers.loud(self.peers.find(time))
            calm = self._calm(values, absent, before, lacked)
            add("split_like", split & calm & ~np.where(jump > 0, up, down))
        return found

    def _is_plain(
        self, place: int, values: np.ndarray, absent: np.ndarray, before: np.ndarray, lacked: np.ndarray
    ) -> bool:  # fmt: skip
        """Tell whether no check of values can find anything in one bar (1, C) of prices, and record it if so.

        Numbers of Python are several times as fast as arrays of one: most bars that come singly end here.
        """
        if not self.prices or True in absent[0].tolist() or True in lacked[0].tolist():
            return False
        own, earlier = values[0].tolist(), before[0].tolist()
        prices = [own[column] for column in self.of_price]
        lowest, highest = min(prices), max(prices)
        within = lowest > 0 and highest < math.inf and 0 <= own[self.place.get("volume", 0)] < math.inf
        if not within or not all(value == value for value in own):
            return False
        if "low" in self.place and "high" in self.place:
            within = own[self.place["low"]] == lowest and own[self.place["high"]] == highest
        step = own[self.place.get("open", self.place["close"])] / (earlier[self.place["close"]] or math.inf)
        calm = _SPLITS[0] - self.checks.split_tolerance
        same = [value == old for value, old in zip(own, earlier, strict=True)]
        if not within or not -calm < math.log(step if step > 0 else math.inf) < calm or same[self.place["close"]]:
            return False
        still = self.past.arrays["still"]
        still[place] = [count + 1 if equal else 0 for count, equal in zip(still[place].tolist(), same, strict=True)]
        return True

    def _still(
        self, places: np.ndarray, values: np.ndarray, absent: np.ndarray, before: np.ndarray, lacked: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Count the bars right before each one with the same values, (n, C), and record the counts."""
        equal = ~absent & ~lacked & ((values == before) | (np.isnan(values) & np.isnan(before)))
        still = np.where(equal, self.past.arrays["still"][places] + 1, 0)
        self.past.arrays["still"][places] = still
        return still

    def _broken(self, values: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Tell which bars have a low above, or a high below, another price; a NaN counts as larger than any number."""
        low, high = values[:, self.place["low"]], values[:, self.place["high"]]
        lowest, highest = high.copy(), low.copy()
        for name in ("open", "close"):
            if name in self.place:
                lowest = np.fmin(lowest, values[:, self.place[name]])
                highest = np.fmax(highest, values[:, self.place[name]])
        nan = there[:, self.place["low"]] & np.isnan(low) & ~np.isnan(lowest)
        return (low > lowest) | (high < highest) | nan

    def _calm(self, values: np.ndarray, absent: np.ndarray, before: np.ndarray, lacked: np.ndarray) -> np.ndarray:
        if "volume" not in self.place:
            return np.ones(len(values), dtype=bool)
        both = [self.place["close"], self.place["volume"]]
        known = ~absent[:, both].any(axis=1) & ~lacked[:, both].any(axis=1)
        traded, earlier = values[:, both].prod(axis=1), 4 * before[:, both].prod(axis=1)
        return known & ((traded < earlier) | (np.isnan(earlier) & ~np.isnan(traded)))

    # ---- times -------------------------------------------------------------------------------------------------------

    def _of_times(
        self, places: np.ndarray, time: int, first: np.ndarray, before: np.ndarray, missing: np.ndarray,
        bars: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Return the bits (n,) of the checks of times, and record the steps that do not keep to the interval."""
        found = np.zeros(len(places), dtype=np.int32)
        if self._of_time[0] != time or not self._of_time[1]:
            self._of_time = time, {}, self._closed(time)
        _, off, closed = self._of_time
        if closed:
            found |= BIT["off_session"]
        timetable = self.traits.timetable[places]
        for kind in set(timetable.tolist()) - {-1}:
            if kind not in off:
                off[kind] = self._off_grid(kind, time)
            if off[kind]:
                found[timetable == kind] |= BIT["off_grid"]
        step = np.where(first, 0, time - before)
        odd = (missing > 0) | ((step > 0) & (step < self.traits.short[places]))
        self.past.put("odd", places, bars, odd)
        # as many as count before the first one do not: what lies in the ring before it is no step
        recent = self.past.tail("odd", places, OF, bars)
        if recent.any():
            changed = recent.sum(axis=1) >= CHANGED
            found[changed & (bars >= OF) & (timetable >= 0)] |= BIT["mixed_interval"]
        return found

    def _off_grid(self, kind: int, time: int) -> bool:
        """Tell whether a time is off the grid of a timetable; where each week has the same times, as it was before."""
        timetable = self.timetables.kinds[kind]
        weekly = self.clock.kind in (DATES, NAIVE) and timetable.zone is None and DAY % timetable.seconds == 0
        key = (kind, time % WEEK_US)
        if not weekly or key not in self._week:
            off = bool(off_grid(timetable, self.clock.series(np.array([time])))[0])
            if not weekly:
                return off
            if len(self._week) > MOST_TIMES:
                self._week.clear()
            self._week[key] = off
        return self._week[key]

    def _closed(self, time: int) -> bool:
        """Tell whether the market of data.checks.calendar is closed on the day of a time."""
        if self.checks.calendar == "weekdays":
            return self._day(time).isoweekday() > 5
        days = self._open_days(time, time)
        return self.checks.exchange is not None and days is not None and self._day(time) not in days

    def _day(self, time: int) -> date:
        return self.clock.series(np.array([time])).cast(pl.Date)[0]

    def _open_days(self, first: int, last: int) -> pl.Series | None:
        """Return the sessions of the exchange of the years around some times; None if none is named."""
        if self.checks.exchange is None:
            return None
        low, high = self._day(first).year, self._day(last).year
        if self._years is None or low < self._years[0] or high > self._years[1]:
            known = self._years or (low, high)
            self._years = min(low, known[0]), max(high, known[1])
            self._days = sessions(self.checks.exchange, date(self._years[0], 1, 1), date(self._years[1], 12, 31))
        return self._days

    def _read(self, places: np.ndarray, before: np.ndarray, time: int) -> _Read:
        """Read the steps (n,) from times before to this one that are longer than the interval of their asset."""
        n = len(places)
        missing, closing, lost = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool), {}
        longer = np.flatnonzero(time - before > self.traits.limit[places])
        if not len(longer):
            return _Read(missing, closing, lost)
        timetable = self.traits.timetable[places[longer]]
        for kind in set(timetable.tolist()):
            own, one = longer[timetable == kind], self.timetables.kinds[kind]
            left, right = self.clock.series(before[own]), self.clock.series(np.full(len(own), time))
            open_days = self._open_days(int(before[own].min()), time)
            read = read_steps(one, left, right, open_days)
            missing[own], closing[own] = read.missing, read.closing
            if (read.missing > 0).any():
                step, times = missing_times(one, read, left, open_days)
                us = times.cast(pl.Datetime("us")).to_physical().to_numpy()
                lost |= {int(own[number]): us[step == number] for number in set(step.tolist())}
        return _Read(missing, closing, lost)

    def _gaps(
        self, places: np.ndarray, time: int, found: np.ndarray, masked: np.ndarray, dropped: np.ndarray,
        before: np.ndarray, step: _Read,
    ) -> Arrived:  # fmt: skip
        """Find the bars that are missing before those that are kept; see `refold.data.bars.gaps`."""
        arrays, n = self.past.arrays, len(places)
        last, expects = arrays["last_row_time"][places], self.checks.calendar is not None
        some = (last != NEVER) & ~dropped
        if (some & (last != before)).any():  # after a bar that was dropped
            step = self._read(places, np.where(some, last, time), time)
        hole = some & (step.missing > 0) & expects
        lost, times = np.zeros(n, dtype=np.int64), {}
        near = np.flatnonzero(some & self.peers.any_between(np.where(some, last, time), time))
        for number in set(near.tolist()) | (set(np.flatnonzero(hole).tolist())):
            place = int(places[number])
            there = self.peers.between(int(last[number]), time, int(self.traits.column[place]))
            if self.traits.timetable[place] < 0 and self.checks.exchange is not None:
                there = np.union1d(there, self._idle_days(int(last[number]), time))
            hole[number] |= len(there) > 0
            own = step.times.get(number, np.empty(0, dtype=np.int64)) if expects else np.empty(0, dtype=np.int64)
            both = np.union1d(own[self.peers.known(own)], there).astype(np.int64)
            if expects and len(both):
                lost[number], times[number] = len(both), both
                found[number] |= BIT["gap"]
        closing = some & step.closing & ~hole
        return Arrived(found, masked, dropped, lost, times, hole, closing)

    def _idle_days(self, first: int, last: int) -> np.ndarray:
        """Return the midnights of sessions between two times on which no asset has a bar."""
        days = self._open_days(first, last)
        assert days is not None
        first_day, last_day = self._day(first), self._day(last)
        near = days.filter(days.is_between(first_day, last_day, closed="none"))
        starts = near.cast(pl.Datetime("us")).to_physical().to_numpy()
        zone = self.clock.dtype.time_zone if isinstance(self.clock.dtype, pl.Datetime) else None
        if zone:
            starts = near.cast(pl.Datetime("us")).dt.replace_time_zone(zone).to_physical().to_numpy()
        idle = [start for start in starts.tolist() if not len(self.peers.between(start - 1, start + 86_400_000_000, 0))]
        return np.array(idle, dtype=np.int64)
