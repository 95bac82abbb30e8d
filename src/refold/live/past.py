"""The kept past of each asset: arrays of a fixed number of bars, which do not grow as bars come.

Letters: A assets, n of them, L bars that are kept, C columns, F features, V values that a score measures.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

NEVER = np.iinfo(np.int64).min
"""Time before every bar."""

RESULTS = ("score", "level", "reason", "found", "lost", "tail_count", "tail_peaks")
"""Rings that hold the verdicts on bars."""


class Kept(NamedTuple):
    """The bars of an asset that are kept, the oldest first, and the verdicts on them.

    Attributes:
        first: number of the oldest.
        times: (L,) int64.
        values: (L, C).
        absent: (L, C) bool.
        results: name -> (L,).
        measured: (L, V) what the score has measured of each bar.
    """

    first: int
    times: np.ndarray
    values: np.ndarray
    absent: np.ndarray
    results: dict[str, np.ndarray]
    measured: np.ndarray


class Past:
    """Hold the past of each asset, one place per asset along the first axis of every array.

    A bar is what came, a row is what the checks have left of it: a dropped bar has no row, and a missing bar that a
    check fills in has a row and is no bar. Both are numbered from 0 and kept in rings: number k lies at k modulo L.

    Args:
        columns: names of the C columns of values.
        features: F.
        values: V.
        kept: L.

    Attributes:
        arrays: name -> array (A', ...) with room for A' assets; the first `len` places are used.
        names: of the assets, in the order of their places.
        peaks: of each asset, what SPOT has added to its tail.
        memories: of each asset, what another threshold that learns knew before the oldest bar that is kept, and knows.
    """

    def __init__(self, columns: Sequence[str], features: int, values: int, kept: int) -> None:
        self.columns = tuple(columns)
        self.kept = kept
        C, L = len(columns), kept
        self.fields: Mapping[str, tuple[tuple[int, ...], type, float]] = {
            # of the bars
            "bars": ((), np.int64, 0),
            "time": ((L,), np.int64, NEVER),
            "raw": ((L, C), np.float64, np.nan),
            "raw_absent": ((L, C), np.bool_, True),
            "odd": ((L,), np.bool_, False),
            "still": ((C,), np.int32, 0),
            "score": ((L,), np.float64, np.nan),
            "level": ((L,), np.float64, np.nan),
            "reason": ((L,), np.int16, 0),
            "found": ((L,), np.int32, 0),
            "lost": ((L,), np.int32, 0),
            "tail_count": ((L,), np.int64, 0),
            "tail_peaks": ((L,), np.int32, 0),
            "bar_of_row": ((L,), np.int64, -1),
            # of the rows
            "rows": ((), np.int64, 0),
            "row_time": ((L,), np.int64, NEVER),
            "value": ((L, C), np.float64, np.nan),
            "absent": ((L, C), np.bool_, True),
            "feature": ((L, features), np.float64, np.nan),
            "scaled": ((L, features), np.float32, 0),
            "present": ((L,), np.bool_, False),
            "measured": ((L, values), np.float32, np.nan),
            # of the run of rows that goes on
            "last_row_time": ((), np.int64, NEVER),
            "run_rows": ((), np.int64, 0),
            "first_run": ((), np.bool_, True),
            "segment": ((), np.int64, 0),
            "since": ((), np.int64, 0),
            "bridged": ((), np.bool_, False),
            "broken": ((), np.bool_, False),
            # of the threshold
            "tail_level": ((), np.float64, np.nan),
            "count": ((), np.int64, 0),
        }
        self.arrays: Arrays = {
            name: np.full((0, *shape), empty, dtype=dtype) for name, (shape, dtype, empty) in self.fields.items()
        }
        self.names: list[str] = []
        self.places: dict[str, int] = {}
        self.peaks: list[np.ndarray] = []
        self.memories: list[tuple[Any, Any]] = []

    def __len__(self) -> int:
        return len(self.names)

    def place(self, name: str) -> int:
        """Return the place of an asset, a new one if it is not known."""
        found = self.places.get(name)
        if found is None:
            found = self.places[name] = len(self.names)
            self.names.append(name)
            self.peaks.append(np.empty(0))
            self.memories.append((None, None))
            self._make_room()
        return found

    def _make_room(self) -> None:
        room = len(self.arrays["bars"])
        if len(self.names) <= room:
            return
        more = max(4, room // 4)  # a fifth of the room is empty at most
        for name, (shape, dtype, empty) in self.fields.items():
            added = np.full((more, *shape), empty, dtype=dtype)
            self.arrays[name] = np.concatenate([self.arrays[name], added])

    def clear(self, place: int) -> None:
        """Forget all of an asset but its name."""
        for name, (_, _, empty) in self.fields.items():
            self.arrays[name][place] = empty
        self.peaks[place] = np.empty(0)
        self.memories[place] = (None, None)

    def read(self, place: int) -> Kept:
        """Copy the bars of the asset at a place that are kept, in order."""
        arrays, bars = self.arrays, int(self.arrays["bars"][place])
        number = np.arange(max(0, bars - self.kept), bars)
        number = number[arrays["time"][place, number % self.kept] != NEVER]
        at = number % self.kept
        measured = np.full((len(at), arrays["measured"].shape[2]), np.nan, dtype=np.float32)
        bar_of_row = arrays["bar_of_row"][place]
        rows = np.flatnonzero(np.isin(bar_of_row, number))
        measured[bar_of_row[rows] - number[0]] = arrays["measured"][place, rows]
        return Kept(
            int(number[0]),
            arrays["time"][place, at],
            arrays["raw"][place, at],
            arrays["raw_absent"][place, at],
            {name: arrays[name][place, at] for name in RESULTS},
            measured,
        )

    def tail(self, name: str, places: np.ndarray, count: int, newest: np.ndarray) -> np.ndarray:
        """Return the newest entries of a ring.

        Args:
            name: of the ring.
            places: (n,) of assets.
            count: entries, at most L.
            newest: (n,) number of the newest one; numbers below 0 give what was never written.

        Returns:
            (n, count, ...), the newest last.
        """
        ring, kept = self.arrays[name], self.kept
        if len(places) == 1:  # a slice, or two: an index of integers takes ten times as long
            own, end = ring[places.item()], newest.item() % kept + 1
            if end >= count:
                return own[None, end - count : end].copy()
            return np.concatenate([own[end - count :], own[:end]])[None]
        number = newest[:, None] + np.arange(1 - count, 1)
        return ring[places[:, None], number % kept]

    def put(self, name: str, places: np.ndarray, number: np.ndarray, values: np.ndarray | float) -> None:
        """Write one entry of a ring for each of some assets."""
        if len(places) == 1:
            only = values[0] if isinstance(values, np.ndarray) else values
            self.arrays[name][places.item(), number.item() % self.kept] = only
            return
        self.arrays[name][places, number % self.kept] = values
