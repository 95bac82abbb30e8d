"""The verdict on a live bar."""

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

DUPLICATE, LATE, FUTURE, MALFORMED = "duplicate", "late", "future", "malformed"

REFUSED = (DUPLICATE, LATE, FUTURE, MALFORMED)
"""Reasons of bars that leave no trace: a bar that came before, one that is older than its asset's newest, one that is
ahead of the clock, and one that cannot be read."""


class Verdict(NamedTuple):
    """The verdict on one bar.

    Attributes:
        timestamp: of the bar, as a date, or as a datetime in the zone of the feed; None if it cannot be read.
        asset: name; None if it cannot be read.
        score: larger is stranger; None if there is none.
        level: the level that holds at the bar; None of a bar that was refused.
        flagged: whether the score passes the level.
        rarity: share of validation bars of the asset that score as high; None if there is no score.
        kind: what a flagged bar looks like as far as the bars up to now tell; None of other bars.
        to_blame: the fewest features that make up most of the score of a flagged bar, most to blame first.
        features: feature -> its value at the bar, in its own units; empty if there is none.
        expected: feature -> what the model makes of it; empty if there is no score.
        expected_close: the close that the expected features give; None if they give none.
        found: names of the checks that found something.
        missing: bars that are missing right before the bar.
        reason: why there is no score: a name of `refold.data.unscored.REASONS`, or of `REFUSED`; None if there is one.
        note: what to do about it, in a sentence, where there is something to do.
        drift: whether the asset's bars, or those of all assets where its own are too few, are still like those of the
            run's validation part: stable, watch or retrain; None if that is not tested.
    """

    timestamp: date | datetime | None
    asset: str | None
    score: float | None = None
    level: float | None = None
    flagged: bool = False
    rarity: float | None = None
    kind: str | None = None
    to_blame: tuple[str, ...] = ()
    features: Mapping[str, float] | None = None
    expected: Mapping[str, float] | None = None
    expected_close: float | None = None
    found: tuple[str, ...] = ()
    missing: int = 0
    reason: str | None = None
    note: str | None = None
    drift: str | None = None

    @property
    def accepted(self) -> bool:
        """Tell whether the bar belongs to the asset's history now; one that was refused does not."""
        return self.reason not in REFUSED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the time as ISO 8601, no NaN and no infinity."""
        return {
            "timestamp": None if self.timestamp is None else self.timestamp.isoformat(),
            "asset": self.asset,
            "score": _finite(self.score),
            "level": _finite(self.level),
            "flagged": self.flagged,
            "rarity": _finite(self.rarity),
            "kind": self.kind,
            "to_blame": list(self.to_blame),
            "features": {name: _finite(value) for name, value in (self.features or {}).items()},
            "expected": {name: _finite(value) for name, value in (self.expected or {}).items()},
            "expected_close": _finite(self.expected_close),
            "found": list(self.found),
            "missing": self.missing,
            "drift": self.drift,
            "reason": self.reason,
            "note": self.note,
            "accepted": self.accepted,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
