"""Change the past of an asset: a bar that was corrected or came late, or prices that a split adjusts.

Letters: L bars of an asset that are kept, C columns.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from refold.data.bars.expected import OF
from refold.errors import ConfigError
from refold.live.feature_maker import FeatureMaker
from refold.live.judging import learns
from refold.live.past import RESULTS, Kept
from refold.live.reading import Unread
from refold.live.steps import CODE
from refold.live.verdict import LATE, Verdict
from refold.scoring.detector import Detector

if TYPE_CHECKING:
    from refold.live.live_detector import LiveDetector

SAME = 1e-6
"""Relative difference from which on scores and levels have changed: float32 in another order differs by less."""


def replay(live: "LiveDetector", place: int, kept: Kept, changed: int) -> list[Verdict]:
    """Take in the bars of an asset anew; those before `changed` keep what was said of them.

    Args:
        live: the detector.
        place: of the asset.
        kept: its bars, in order of time; the results of those from `changed` on are not used.
        changed: the first bar that is judged anew, counted from the oldest one.

    Returns:
        The verdicts of the bars from `changed` on.
    """
    past = live.history
    peaks, (oldest, newest) = past.peaks[place], past.memories[place]
    arrays, threshold = past.arrays, live.detector.threshold.of(past.names[place])
    tail = {name: arrays[name][place].copy() for name in ("tail_level", "count")}
    past.clear(place)
    arrays["bars"][place] = arrays["rows"][place] = kept.first
    said, places = [], np.array([place])
    for number, time in enumerate(kept.times.tolist()):
        if number == changed and learns(threshold):
            results = kept.results
            past.memories[place] = oldest, threshold.levels(results["score"][:number], oldest)[1]
            peaks = peaks[: int(results["tail_peaks"][number])]
            tail = {"tail_level": results["level"][number], "count": results["tail_count"][number]}
            for name, value in tail.items():
                arrays[name][place] = value
            past.peaks[place] = peaks
        one = live.steps.step(
            places, time, kept.values[number : number + 1], kept.absent[number : number + 1]
        )  # fmt: skip
        if number >= changed:
            said += live.judging.verdicts([one], live.judging.judge([one]))
            continue
        for name, values in kept.results.items():
            past.put(name, places, one.bar, values[number])
        if one.row[0] >= 0:
            past.put("measured", places, one.row, kept.measured[number : number + 1])
    if changed >= len(kept.times):
        past.peaks[place], past.memories[place] = peaks, (oldest, newest)
        for name, value in tail.items():
            arrays[name][place] = value
    return said


def put_in(kept: Kept, time: int, values: np.ndarray, absent: np.ndarray, most: int) -> tuple[Kept, int]:
    """Put a bar in the place of one of its time, or between those around it; return its place, too."""
    place = int(np.searchsorted(kept.times, time))
    if place < len(kept.times) and kept.times[place] == time:
        kept.values[place], kept.absent[place] = values, absent
        return kept, place

    def inserted(array: np.ndarray, value: np.ndarray | int | float) -> np.ndarray:
        return np.insert(array, place, value, axis=0)

    longer = Kept(
        kept.first,
        inserted(kept.times, time),
        inserted(kept.values, values),
        inserted(kept.absent, absent),
        # what a threshold knew before the bar at its place, it knew before this one
        {name: inserted(array, array[min(place, len(array) - 1)]) for name, array in kept.results.items()},
        inserted(kept.measured, np.nan),
    )
    if len(longer.times) <= most:
        return longer, place
    shorter = Kept(
        kept.first + 1, longer.times[1:], longer.values[1:], longer.absent[1:],
        {name: array[1:] for name, array in longer.results.items()}, longer.measured[1:],
    )  # fmt: skip
    return shorter, place - 1


def has_changed(before: dict[str, np.ndarray], number: int, live: "LiveDetector", place: int, bar: int) -> bool:
    """Tell whether what is said of a bar differs from what was.

    Args:
        before: name -> (L,) what was said.
        number: of the bar among those.
        live: the detector.
        place: of the asset.
        bar: number of the bar now.
    """
    arrays, at = live.history.arrays, bar % live.history.kept
    now = {name: arrays[name][place, at] for name in RESULTS}
    if any(before[name][number] != now[name] for name in ("reason", "found", "lost")):
        return True
    flags = [values["score"] > values["level"] for values in ({n: before[n][number] for n in RESULTS}, now)]
    close = [np.isclose(before[name][number], now[name], rtol=SAME, atol=0, equal_nan=True) for name in RESULTS[:2]]
    return bool(flags[0] != flags[1]) or not (close[0] or now["reason"] != CODE[""]) or not close[1]


def revise(live: "LiveDetector", bar: Mapping[str, Any]) -> list[Verdict]:
    """Correct a bar, or put one in; see `LiveDetector.revise`."""
    read = live.reader.read(bar)
    if isinstance(read, Unread):
        return [live.unread(read)]
    place = live.history.places.get(read.asset)
    if place is None or live.last_time(place) < read.time:
        return [live.push(bar)]
    kept = live.history.read(place)
    needed = context_bars(live.detector, live.maker) if kept.first else 0
    number = int(np.searchsorted(kept.times, read.time))
    if number < needed:
        note = f"it is older than the {len(kept.times) - needed} newest bars of {read.asset}, which can be revised"
        return [live.refused(read.asset, read.time, LATE, note)]
    there = kept.times[number] == read.time
    same = (
        np.array_equal(kept.values[number], read.values, equal_nan=True) and (kept.absent[number] == read.absent).all()
    )
    if there and same:
        return []
    before = {name: values.copy() for name, values in kept.results.items()}
    old = kept.times.copy()
    live.arrivals.recount(place, kept, [number, number + 1] if there else [number], -1)
    threshold, (oldest, newest) = live.detector.threshold.of(read.asset), live.history.memories[place]
    if not there and len(kept.times) == live.history.kept and learns(threshold):  # the oldest makes room
        live.history.memories[place] = threshold.levels(kept.results["score"][:1], oldest)[1], newest
    kept, number = put_in(kept, read.time, np.array(read.values), np.array(read.absent), live.history.kept)
    live.arrivals.recount(place, kept, [number, number + 1], 1)
    with np.errstate(all="ignore"):
        said = replay(live, place, kept, number)
    changed = []
    for count, verdict in enumerate(said, number):
        was = int(np.searchsorted(old, kept.times[count]))
        known = was < len(old) and old[was] == kept.times[count]
        if not known or has_changed(before, was, live, place, kept.first + count):
            changed.append(verdict)
    return changed


def adjust(live: "LiveDetector", asset: str, factor: float) -> None:
    """Multiply the prices of an asset's past; see `LiveDetector.adjust`.

    Raises:
        ConfigError: the asset has no bars, the factor is no number above 0, or the bars are no prices.
    """
    place = None if live.past is None else live.past.places.get(asset)
    if place is None:
        raise ConfigError(f"asset is {asset!r}; it has no bars to adjust")
    if not isinstance(factor, int | float) or not 0 < factor < np.inf:
        raise ConfigError(f"factor is {factor!r}; it must be a number above 0, such as 0.5 for a split of 2:1")
    if live.table.kind == "series":
        raise ConfigError("a series of numbers has no splits; revise corrects single bars")
    kept = live.history.read(place)
    for column, name in enumerate(live.history.columns):
        kept.values[:, column] *= 1 / factor if name == "volume" else factor
    with np.errstate(all="ignore"):
        replay(live, place, kept, len(kept.times))


def context_bars(detector: Detector, maker: FeatureMaker) -> int:
    """Return how many bars before a bar its verdict depends on."""
    recipe = detector.recipe
    lookback = maker.lookback + recipe.scale_bars
    return recipe.window_size + lookback + max(recipe.checks.stale_bars, OF) + detector.score_function.before
