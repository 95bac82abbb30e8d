"""From bars of one moment to their features and windows.

The twin of `refold.data.feature_table` and `refold.data.windows` for the newest bar of some assets. Letters: n bars,
each of another asset, P of them present, T bars in a window, F features, C columns.
"""

from typing import NamedTuple

import numpy as np

from refold.data.feature_table import spans_night
from refold.data.unscored import REASONS
from refold.live.arrivals import BIT, NAMES, Arrivals, Arrived
from refold.live.feature_maker import Bars, FeatureMaker
from refold.live.past import NEVER, Past
from refold.live.traits import Traits

CODE = {name: code for code, name in enumerate(REASONS)}

_VALUELESS = BIT["missing_value"] | BIT["not_finite"]


class Round(NamedTuple):
    """Bars of one moment that are ready for the model.

    Attributes:
        places: (n,) of their assets.
        time: of the bars.
        bar: (n,) number of the bar of its asset.
        row: (n,) number of its row; -1 for a dropped bar.
        present: (n,) bool, whether it has features.
        features: (n, F) in their own units, NaN where there is none.
        mean: (n, F) of the scale.
        std: (n, F) of the scale.
        windows: (P, T, F) float32, scaled, those of the present bars.
        mask: (P, T) bool, the bars of the windows that the model looks at.
        ends: (P,) place of the bar in its window.
        first_close: (P,) float32, close of the window's first bar; None if no feature is relative to it.
        last_close: (n,) close of the bar before.
        reason: (n,) code of `REASONS`, of the bars that are not present.
        found: (n,) bits of the checks.
        lost: (n,) missing bars.
    """

    places: np.ndarray
    time: int
    bar: np.ndarray
    row: np.ndarray
    present: np.ndarray
    features: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    windows: np.ndarray
    mask: np.ndarray
    ends: np.ndarray
    first_close: np.ndarray | None
    last_close: np.ndarray
    reason: np.ndarray
    found: np.ndarray
    lost: np.ndarray


class Stepper:
    """Turn bars that arrive into windows, and record their rows in the past.

    Args:
        arrivals: checks the bars.
        past: of the assets.
        traits: what the run says of them.
        maker: of the features.
    """

    def __init__(self, arrivals: Arrivals, past: Past, traits: Traits, maker: FeatureMaker) -> None:
        self.arrivals, self.past, self.traits, self.maker = arrivals, past, traits, maker
        recipe = traits.detector.recipe
        self.recipe = recipe
        self.breaks = recipe.checks.calendar is not None
        self.masks_nights = recipe.overnight == "mask" and recipe.window_size > 1 and spans_night(maker.features)
        self.relative = [number for number, feature in enumerate(maker.features) if feature.relative]
        self.needed = maker.lookback + recipe.scale_bars  # bars that a row depends on
        self.places_of = {name: number for number, name in enumerate(past.columns)}
        self.acts = sum(BIT[name] for name, policy in recipe.checks.policies.items() if policy != "warn")

    def step(self, places: np.ndarray, time: int, values: np.ndarray, absent: np.ndarray) -> Round:
        """Take in bars of one moment.

        Args:
            places: (n,) different assets.
            time: of the bars, later than those before.
            values: (n, C) float64.
            absent: (n, C) bool.
        """
        arrays, kept = self.past.arrays, self.past.kept
        bar = arrays["bars"][places]
        last_close = self._last_close(places, bar)
        arrived = self.arrivals.check(places, time, values, absent)
        F = len(self.maker.makers)
        row = np.where(arrived.dropped, -1, 0)
        features, present = np.full((len(places), F), np.nan), np.zeros(len(places), dtype=bool)
        mean, std = self.traits.mean[places], self.traits.std[places]
        reason = np.zeros(len(places), dtype=np.int16)
        windows = self._no_windows()
        all_stay = not arrived.dropped.any()
        if all_stay or not arrived.dropped.all():
            stays = slice(None) if all_stay else np.flatnonzero(~arrived.dropped)  # a slice takes no time
            own = _Rows(places[stays], time, values[stays], absent[stays] | arrived.masked[stays, None])
            kept_of = arrived if all_stay else _chosen(arrived, stays)
            self._fill(own.places, np.arange(len(places))[stays], arrived)
            row[stays] = self._add_rows(own, kept_of)
            made = self._features(own, kept_of)
            present[stays] = made.present
            features[stays] = (
                made.values if made.present.all() else np.where(made.present[:, None], made.values, np.nan)
            )
            arrived.found[stays] |= made.found
            if made.mean is not None and made.std is not None:
                mean[stays], std[stays] = made.mean, np.maximum(made.std, std[stays])
            reason[stays] = self._early(own.places)
            self._extend(own.places, row[stays], made, mean[stays], std[stays])
            there = slice(None) if made.present.all() else made.present
            windows = self._windows(own.places[there], row[stays][there])
            arrays["bar_of_row"][own.places, row[stays] % kept] = bar[stays]
        reason = np.where(present, 0, self._named(arrived.found, reason))
        return Round(
            places, time, bar, row, present, features, mean, std, *windows, last_close, reason, arrived.found,
            arrived.lost,
        )  # fmt: skip

    def _last_close(self, places: np.ndarray, bar: np.ndarray) -> np.ndarray:
        if "close" not in self.places_of:
            return np.full(len(places), np.nan)
        close, number = self.places_of["close"], (bar - 1) % self.past.kept
        lacks = self.past.arrays["raw_absent"][places, number, close]
        return np.where(lacks, np.nan, self.past.arrays["raw"][places, number, close])

    def _fill(self, places: np.ndarray, numbers: np.ndarray, arrived: Arrived) -> None:
        """Give missing bars rows without values, where a check fills them in; of a long hole those that are kept."""
        if not self.arrivals.fills or not arrived.lost_times:
            return
        arrays = self.past.arrays
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
            if number not in arrived.lost_times:
                continue
            times = arrived.lost_times[number]
            skipped = max(0, len(times) - self.past.kept)
            arrays["rows"][place] += skipped
            for time in times[skipped:].tolist():
                at = arrays["rows"][place] % self.past.kept
                arrays["row_time"][place, at] = time
                for name, empty in (("value", np.nan), ("absent", True), ("feature", np.nan), ("scaled", 0)):
                    arrays[name][place, at] = empty
                for name, empty in (("present", False), ("measured", np.nan), ("bar_of_row", -1)):
                    arrays[name][place, at] = empty
                arrays["rows"][place] += 1
            arrays["run_rows"][place] += len(times)
            arrays["since"][place] += len(times)
            arrays["bridged"][place] = False
            arrived.hole[number] = False

    def _add_rows(self, own: "_Rows", arrived: Arrived) -> np.ndarray:
        """Record the values of rows, say which run they belong to, and return their numbers."""
        arrays, places = self.past.arrays, own.places
        row = arrays["rows"][places]
        self.past.put("row_time", places, row, own.time)
        self.past.put("value", places, row, own.values)
        self.past.put("absent", places, row, own.absent)
        fresh = arrays["last_row_time"][places] == NEVER
        hole = arrived.hole if not self.arrivals.fills else np.zeros(len(places), dtype=bool)
        new = fresh | (hole & self.breaks) | (arrived.closing & (self.recipe.overnight == "break"))
        arrays["rows"][places] = row + 1
        arrays["last_row_time"][places] = own.time
        arrays["run_rows"][places] = np.where(new, 1, arrays["run_rows"][places] + 1)
        arrays["first_run"][places] = np.where(new, fresh, arrays["first_run"][places])
        for name in ("segment", "since", "bridged", "broken"):
            arrays[name][places] = np.where(new, 0, arrays[name][places])
        return row

    def _features(self, own: "_Rows", arrived: Arrived) -> "_Made":
        arrays, places = self.past.arrays, own.places
        K, row = self.maker.lookback, arrays["rows"][places] - 1
        values, absent = self.past.tail("value", places, K, row), self.past.tail("absent", places, K, row)
        absent |= (np.arange(K - 1, -1, -1) >= arrays["run_rows"][places][:, None])[:, :, None]  # of another run
        bars = Bars(
            {name: values[:, :, column] for name, column in self.places_of.items()},
            {name: absent[:, :, column] for name, column in self.places_of.items()},
            self.past.tail("row_time", places, K, row) if self.maker.slow else np.zeros((len(places), K)),
            self.arrivals.clock.series,
        )
        made, lacks = self.maker.make(bars)
        finite = np.isfinite(made)
        faulty = (~lacks & ~finite).any(axis=1)
        found = np.where(faulty, BIT["feature_not_finite"], 0).astype(np.int32)
        bridged = arrived.closing & self.masks_nights
        present = (finite & ~lacks).all(axis=1) & ~bridged
        made[lacks] = np.nan
        mean = std = None
        if self.recipe.scale == "trailing":
            mean, std = self._moving(places, row)
            present &= np.isfinite(mean).all(axis=1) & np.isfinite(std).all(axis=1)
        broken = np.asarray(faulty & (self.recipe.checks.policies["feature_not_finite"] == "drop"))
        self.past.put("feature", places, row, np.where(bridged[:, None], np.nan, made))
        return _Made(made, present, bridged, broken, found, mean, std)

    def _moving(self, places: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation (n, F) of the rows before; see `refold.data.feature_table.moving_statistics`."""
        count, run_rows = self.recipe.scale_lookback, self.past.arrays["run_rows"][places]
        before = self.past.tail("feature", places, count, row - 1)
        inside = np.arange(count, 0, -1) < run_rows[:, None]  # (n, count) of the same run
        finite = np.isfinite(before) & inside[:, :, None]
        number = finite.sum(axis=1)
        enough = (number >= max(2, -(-count // 2))) & (run_rows - 1 >= count + self.maker.lookback - 1)[:, None]
        filled = np.where(finite, before, 0.0)
        mean = filled.sum(axis=1) / np.maximum(number, 1)
        square = (np.where(finite, before - mean[:, None], 0.0) ** 2).sum(axis=1) / np.maximum(number, 1)
        parts = (np.where(enough, part, np.nan).astype(np.float32).astype(np.float64) for part in (mean, square**0.5))
        return tuple(parts)  # pyright: ignore[reportReturnType]  two of them

    def _early(self, places: np.ndarray) -> np.ndarray:
        """Return why rows without features have none, as codes; see `refold.data.unscored.codes_of_bars`."""
        arrays = self.past.arrays
        early = arrays["run_rows"][places] - 1 < self.needed - 1
        which = np.where(arrays["first_run"][places], CODE["warming"], CODE["hole"])
        return np.where(early, which, CODE["masked"])

    def _named(self, found: np.ndarray, reason: np.ndarray) -> np.ndarray:
        """Put the name of the first check that took a bar's values in the place of another reason."""
        acting = found & (self.acts | _VALUELESS) & ~BIT["gap"]
        for number in np.flatnonzero(acting).tolist():
            reason[number] = CODE[next(name for name in NAMES if acting[number] & BIT[name])]
        return reason

    def _extend(
        self, places: np.ndarray, row: np.ndarray, made: "_Made", mean: np.ndarray, std: np.ndarray
    ) -> None:  # fmt: skip
        """Record scaled rows, and how many rows up to each present one a window may hold."""
        arrays, present = self.past.arrays, made.present
        scaled = np.where(present[:, None], (made.values - mean) / std, 0.0).astype(np.float32)
        self.past.put("scaled", places, row, scaled)
        self.past.put("present", places, row, present)
        self.past.put("measured", places, row, np.nan)
        since, segment = arrays["since"][places], arrays["segment"][places]
        over = (since == 0) | ((since <= self.recipe.max_masked) & ~arrays["broken"][places])
        over |= (since == 1) & arrays["bridged"][places]
        longer = np.where((segment > 0) & over, segment + since + 1, 1)
        arrays["segment"][places] = np.where(present, longer, segment)
        arrays["since"][places] = np.where(present, 0, since + 1)
        arrays["bridged"][places] = made.bridged
        arrays["broken"][places] = ~present & (arrays["broken"][places] | made.broken)

    def _no_windows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        T, F = self.recipe.window_size, len(self.maker.makers)
        nothing = np.empty(0, dtype=np.float32) if self.relative else None
        return (
            np.empty((0, T, F), np.float32), np.empty((0, T), dtype=bool), np.empty(0, dtype=np.int64), nothing
        )  # fmt: skip

    def _windows(
        self, places: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Cut the windows (P, T, F) that end at rows; those of fewer bars than T begin with them, as in a table."""
        if not len(places):
            return self._no_windows()
        T = self.recipe.window_size
        held = np.minimum(self.past.arrays["segment"][places], T)
        inside = np.arange(T) < held[:, None]
        newest = row + T - held
        windows, present = (self.past.tail(name, places, T, newest) for name in ("scaled", "present"))
        mask = present & inside
        if not mask.all():
            windows[~mask] = 0.0
        first_close = None
        if self.relative:
            first = mask.argmax(axis=1)
            number = np.arange(len(places))
            for column in self.relative:
                level = windows[number, first, column]
                windows[:, :, column] = np.where(mask, windows[:, :, column] - level[:, None], 0.0)
            closes = self.past.tail("value", places, T, newest)[number, first, self.places_of["close"]]
            first_close = closes.astype(np.float32)
        return windows, mask, held - 1, first_close


class _Rows(NamedTuple):
    """Bars that stay: their assets, time, values (n, C), and where one is absent (n, C)."""

    places: np.ndarray
    time: int
    values: np.ndarray
    absent: np.ndarray


class _Made(NamedTuple):
    """Features of n rows: values (n, F), what becomes of the rows (n,), bits of checks, and a trailing scale."""

    values: np.ndarray
    present: np.ndarray
    bridged: np.ndarray
    broken: np.ndarray
    found: np.ndarray
    mean: np.ndarray | None
    std: np.ndarray | None


def _chosen(arrived: Arrived, stays: np.ndarray | slice) -> Arrived:
    """Return what the checks say of some of the bars."""
    return Arrived(
        arrived.found[stays], arrived.masked[stays], arrived.dropped[stays], arrived.lost[stays], arrived.lost_times,
        arrived.hole[stays], arrived.closing[stays],
    )  # fmt: skip
