"""The last bars of each asset, as a page shows them: arrays of a fixed number of bars."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from refold.live.verdict import Verdict

SHOWN = 128
"""Bars of an asset that are kept."""


class Recent:
    """Keep the newest verdicts of each asset as numbers.

    Args:
        features: names of the features.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.features = tuple(features)
        self.places: dict[str, int] = {}
        self.count = np.zeros(0, dtype=np.int64)
        F = len(self.features)
        self.numbers = np.full((0, SHOWN, 2 + 2 * F), np.nan, dtype=np.float32)  # score, level, features, expected
        self.flags = np.zeros((0, SHOWN), dtype=bool)
        self.times: list[list[str]] = []
        self.drift: list[str | None] = []

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts on bars that were accepted."""
        for verdict in verdicts:
            if not verdict.accepted or verdict.asset is None or verdict.timestamp is None:
                continue
            place = self._place(verdict.asset)
            row = int(self.count[place] % SHOWN)
            parts = [(verdict.features or {}).get(name) for name in self.features]
            parts += [(verdict.expected or {}).get(name) for name in self.features]
            numbers = [math.nan if value is None else value for value in (verdict.score, verdict.level, *parts)]
            self.numbers[place, row], self.flags[place, row] = numbers, verdict.flagged
            times = self.times[place]
            if len(times) < SHOWN:
                times.append("")
            times[row] = verdict.timestamp.isoformat()
            self.drift[place] = verdict.drift
            self.count[place] += 1

    def _place(self, asset: str) -> int:
        place = self.places.setdefault(asset, len(self.places))
        if place == len(self.times):
            self.times.append([])
            self.drift.append(None)
            if place >= len(self.count):
                more = max(8, len(self.count))
                self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int64)])
                self.numbers = np.concatenate(
                    [self.numbers, np.full((more, *self.numbers.shape[1:]), np.nan, np.float32)]
                )
                self.flags = np.concatenate([self.flags, np.zeros((more, SHOWN), dtype=bool)])
        return place

    def assets(self) -> list[dict[str, Any]]:
        """Return a row per asset: name, bars, and time, score, level, flag and drift of its newest bar."""
        rows = []
        for name, place in self.places.items():
            last = int((self.count[place] - 1) % SHOWN)
            score, level = map(_plain, self.numbers[place, last, :2].tolist())
            rows.append(
                {
                    "asset": name,
                    "bars": int(self.count[place]),
                    "timestamp": self.times[place][last],
                    "score": score,
                    "level": level,
                    "flagged": bool(self.flags[place, last]),
                    "drift": self.drift[place],
                }
            )
        return rows

    def of(self, asset: str) -> dict[str, Any] | None:
        """Return the last bars of an asset, oldest first: timestamps, scores, levels, flags, features and expected."""
        place = self.places.get(asset)
        if place is None:
            return None
        count = int(self.count[place])
        order = np.arange(max(0, count - SHOWN), count) % SHOWN
        columns = [[_plain(value) for value in column] for column in self.numbers[place, order].T.tolist()]
        F = len(self.features)
        return {
            "asset": asset,
            "timestamp": [self.times[place][row] for row in order.tolist()],
            "score": columns[0],
            "level": columns[1],
            "flagged": self.flags[place, order].tolist(),
            "features": dict(zip(self.features, columns[2 : 2 + F], strict=True)),
            "expected": dict(zip(self.features, columns[2 + F :], strict=True)),
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
