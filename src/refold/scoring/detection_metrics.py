"""Metrics of scores and verdicts on bars whose true anomalies are known.

`pool` puts series, the bars of one asset in order of time, one after another. Each metric is a function of what it
returns; no event, and no buffer around one, crosses from one series into the next. Larger scores are stranger.

Point-adjusted F1 is not here: it counts all bars of an event as hits if any of them is flagged, and a random score
reaches 0.9 with it on public benchmarks (Kim et al. 2022).

Letters: N bars of all series, E events (runs of labelled bars), K thresholds, C quarters of bars.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class LabelledScores(NamedTuple):
    """Scores and labels of the bars of all series.

    Attributes:
        scores: (N,) float64.
        labels: (N,) bool, True where a bar is anomalous.
        series: (N,) int, number of the bar's series.
    """

    scores: np.ndarray
    labels: np.ndarray
    series: np.ndarray


def pool(series: Iterable[tuple[ArrayLike, ArrayLike]]) -> LabelledScores:
    """Concatenate the scores and labels of several series, for the metrics of this module.

    Args:
        series: for each series its scores (n,), larger is stranger, and its labels (n,), true where a bar is anomalous.

    Raises:
        ValueError: a score is NaN, because ranking it anywhere would be a guess, or the shapes differ.
    """
    pairs = [(np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)) for scores, labels in series]
    for scores, labels in pairs:
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise ValueError(f"scores are {scores.shape} and labels {labels.shape}; both must be (N,) with the same N")
        if missing := int(np.isnan(scores).sum()):
            raise ValueError(f"{missing} of {len(scores)} scores are NaN; leave bars without a score out of both")
    number = np.repeat(np.arange(len(pairs)), [len(scores) for scores, _ in pairs])
    scores, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return LabelledScores(scores, labels, number)


def _ratio(part: float, total: float) -> float:
    """Return part / total, NaN where the total is 0."""
    return float(part / total) if total else math.nan


# Ranking --------------------------------------------------------------------------------------------------------------
# Not those of torchmetrics, which pass scores outside [0, 1] through a sigmoid: it makes all large ones equal.


def average_precision(seen: LabelledScores) -> float:
    """Return the sum over thresholds of (recall_k - recall_{k-1}) precision_k; NaN without an anomalous bar.

    A random score has the share of anomalous bars.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(seen.labels, _ranks(seen))) if seen.labels.any() else math.nan


def event_average_precision(seen: LabelledScores) -> float:
    """Return the average precision of events: each counts once, by its highest score, beside the bars outside of all.

    So a stale run of twenty bars is worth as much as one bad tick. NaN without an event.
    """
    starts, _ = labelled_runs(seen)
    if not len(starts):
        return math.nan
    tops = _highest(seen, starts)
    normal = seen.scores[~seen.labels]
    labels = np.arange(len(tops) + len(normal)) < len(tops)
    return average_precision(LabelledScores(np.concatenate([tops, normal]), labels, np.zeros(len(labels), dtype=int)))


def auroc(seen: LabelledScores) -> float:
    """Return the share of pairs of an anomalous and a normal bar that the score puts in the right order.

    Ties count half. NaN without both kinds of bars.
    """
    from sklearn.metrics import roc_auc_score

    both = seen.labels.any() and not seen.labels.all()
    return float(roc_auc_score(seen.labels, _ranks(seen))) if both else math.nan


def _ranks(seen: LabelledScores) -> np.ndarray:
    """Return the rank of each score, equal for ties; scikit-learn refuses scores of -inf."""
    return np.unique(seen.scores, return_inverse=True)[1]


# Volume under the surface ---------------------------------------------------------------------------------------------


def volume_under_surface(seen: LabelledScores, *, max_buffer: int, num_thresholds: int = 250) -> dict[str, float]:
    """Measure ranking with labels that reach softly over the borders of each event, so that near misses count.

    For a buffer of l bars the label is 1 inside an event and sqrt(1 - d / l) at a distance of d <= l / 2 from it,
    summed over events and capped at 1. At each threshold with predictions p:

        TP = sum of label p
        P_l = (P + sum of labels, those of buffers only where p = 1) / 2
        recall = min(TP / P_l, 1) x share of buffered events touched
        precision = TP / sum p
        false positive rate = (sum p - TP) / (N - P_l)

    Both areas are means over l = 0..max_buffer. Each buffer costs as much as there are bars near events.

    Args:
        seen: pooled series.
        max_buffer: bars, at least 0.
        num_thresholds: K, at least 2; evenly spaced ranks.

    Returns:
        vus_pr and vus_roc; NaN without an anomalous bar.

    Source: Paparrizos et al. 2022, "Volume under the surface"; the areas are those of their published code, whose
    precision is not interpolated.
    """
    N, K = len(seen.scores), num_thresholds
    starts, ends = labelled_runs(seen)
    if not len(starts):
        return dict.fromkeys(("vus_pr", "vus_roc"), math.nan)
    ranks = np.linspace(0, N - 1, K).astype(np.int64)  # as the published code: rounded down
    thresholds = np.sort(seen.scores)[::-1][ranks]
    first = np.searchsorted(-thresholds, -seen.scores)  # (N,) the first threshold at which a bar is predicted
    predicted, inside = _accumulate(first, K), _accumulate(first[seen.labels], K)
    bars, distance, event = _neighbours(seen, starts, ends, max_buffer // 2)
    near, place = np.unique(bars, return_inverse=True)
    areas = np.zeros(2)
    for buffer in range(max_buffer + 1):
        reached = distance <= buffer // 2
        label = np.zeros(len(near))
        if buffer:
            label = np.bincount(place[reached], np.sqrt(1 - distance[reached] / buffer), minlength=len(near))
        TP = _accumulate(first[near], K, np.where(seen.labels[near], 1.0, np.minimum(label, 1)))
        merged = _merge(seen, starts, ends, buffer // 2)[event[reached]]
        touched = np.full(merged.max() + 1, K)
        np.minimum.at(touched, merged, first[bars[reached]])
        positives = (2 * inside[-1] + TP - inside) / 2
        recall = np.minimum(TP / positives, 1) * _accumulate(touched, K) / len(touched)
        false = (predicted - TP) / (N - positives)
        areas[0] += (np.diff(recall, prepend=0) * TP / predicted).sum()
        x, y = np.concatenate([[0], false, [1]]), np.concatenate([[0], recall, [1]])
        areas[1] += (np.diff(x) * (y[1:] + y[:-1])).sum() / 2
    pr, roc = (areas / (max_buffer + 1)).tolist()
    return {"vus_pr": pr, "vus_roc": roc}


def _accumulate(first: np.ndarray, K: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return (K,) the weight of the bars predicted at each threshold, given the first threshold that predicts each."""
    return np.bincount(first, weights, minlength=K).cumsum().astype(np.float64)


def _neighbours(
    seen: LabelledScores, starts: np.ndarray, ends: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, distance in bars (0 inside) and event of bars in or near events, once for each event."""
    length = ends - starts + 1 + 2 * reach
    event = np.repeat(np.arange(len(starts)), length)
    row = starts[event] - reach + np.arange(len(event)) - (length.cumsum() - length)[event]
    inside = (row >= 0) & (row < len(seen.series))
    inside &= seen.series[row.clip(0, len(seen.series) - 1)] == seen.series[starts[event]]
    row, event = row[inside], event[inside]
    return row, np.maximum(starts[event] - row, row - ends[event]).clip(min=0), event


def _merge(seen: LabelledScores, starts: np.ndarray, ends: np.ndarray, reach: int) -> np.ndarray:
    """Return the number of the buffered event of each event, (E,); events whose buffers meet share one."""
    apart = (ends[:-1] + reach < starts[1:] - reach) | (seen.series[starts[1:]] != seen.series[ends[:-1]])
    return np.append(0, apart.cumsum())


# Events ---------------------------------------------------------------------------------------------------------------


def labelled_runs(seen: LabelledScores) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last row of each event, (E,) each: a run of labelled bars of one series."""
    new = np.diff(seen.series) != 0
    starts = seen.labels & np.append(True, new | ~seen.labels[:-1])
    ends = seen.labels & np.append(new | ~seen.labels[1:], True)
    return np.flatnonzero(starts), np.flatnonzero(ends)


def _highest(seen: LabelledScores, starts: np.ndarray) -> np.ndarray:
    """Return the highest score of each event, (E,), from the first rows that `labelled_runs` returns."""
    return np.maximum.reduceat(np.where(seen.labels, seen.scores, -np.inf), starts)


def event_f1(seen: LabelledScores, *, threshold: float) -> dict[str, float]:
    """Compute precision, recall and F1 with found events as hits and wrongly flagged bars as false alarms.

    Recall is the share of events with a flagged bar; precision = events found / (events found + flagged bars outside
    all events). One flagged bar finds an event, however long it is; each wrongly flagged bar costs, so flagging
    everything does not pay.

    Args:
        seen: pooled series.
        threshold: a bar is flagged if its score is above it.

    Returns:
        event_f1, event_precision and event_recall. Without any flag the precision is NaN, and F1 is 0.
    """
    flagged = seen.scores > threshold
    starts, ends = labelled_runs(seen)
    count = np.append(0, flagged.cumsum())
    found, false = int((count[ends + 1] > count[starts]).sum()), int((flagged & ~seen.labels).sum())
    return {
        "event_f1": _ratio(2 * found, found + false + len(starts)),
        "event_precision": _ratio(found, found + false),
        "event_recall": _ratio(found, len(starts)),
    }


def best_threshold(seen: LabelledScores) -> dict[str, float]:
    """Find the threshold with the largest `event_f1`, the highest of equals; for validation data.

    Returns:
        threshold and event_f1. The threshold lies half-way between two scores that occur, or at -inf if all bars are
        best flagged; NaN without an event.
    """
    starts, _ = labelled_runs(seen)
    if not len(starts):
        return dict.fromkeys(("threshold", "event_f1"), math.nan)
    tops = np.sort(_highest(seen, starts))
    normal = np.sort(seen.scores[~seen.labels])
    candidates = np.unique(tops)  # between two of them only false alarms change: each is best reached from just below
    found = len(tops) - np.searchsorted(tops, candidates)
    false = len(normal) - np.searchsorted(normal, candidates)
    f1 = 2 * found / (found + false + len(tops))
    best = np.flatnonzero(f1 == f1.max())[-1]
    high = float(candidates[best])
    low = float(seen.scores[seen.scores < high].max(initial=-np.inf))
    middle = low + (high - low) / 2
    # of two neighbouring floats the middle is one of the two
    return {"threshold": middle if middle < high else low, "event_f1": float(f1[best])}


def detection_delay(seen: LabelledScores, *, threshold: float) -> dict[str, float]:
    """Count the bars from the first bar of an event to the first that is flagged in it, over the events found.

    It says nothing without the share of events found: finding none has no delay.

    Args:
        seen: pooled series.
        threshold: a bar is flagged if its score is above it.

    Returns:
        mean_delay_bars and median_delay_bars, NaN if no event is found.
    """
    starts, ends = labelled_runs(seen)
    flagged = np.append(np.flatnonzero(seen.scores > threshold), len(seen.scores))
    first = flagged[np.searchsorted(flagged, starts)]
    delay = (first - starts)[first <= ends]
    mean, median = (float(of(delay)) if len(delay) else math.nan for of in (np.mean, np.median))
    return {"mean_delay_bars": mean, "median_delay_bars": median}


# Affiliation ----------------------------------------------------------------------------------------------------------


class _Zones(NamedTuple):
    """Events and their zones, in bars: a zone holds the places nearer to its event than to any other of its series.

    Attributes:
        begin: (E,) begin of each event.
        end: (E,) end of each event.
        left: (E,) begin of its zone.
        right: (E,) end of its zone.
    """

    begin: np.ndarray
    end: np.ndarray
    left: np.ndarray
    right: np.ndarray


def affiliation(seen: LabelledScores, *, threshold: float) -> dict[str, float]:
    """Measure how near flagged bars are to events and events to flagged bars.

    A distance counts as the share of places in the event's zone that would have been farther away. Precision is the
    mean over zones with a flag, of the mean over what is flagged there. Recall is the mean over all zones, of the mean
    over the event, 0 where nothing is flagged in the zone. A random score has about 0.5, and flags in series without an
    event cost nothing: never quote it alone.

    Args:
        seen: pooled series.
        threshold: a bar is flagged if its score is above it.

    Returns:
        affiliation_f1, affiliation_precision and affiliation_recall. Without any flag the precision is NaN and F1 is 0;
        NaN without an event.

    Source: Huet et al. 2022, arXiv 2206.13167. Bar i is the interval [i, i + 1).
    """
    starts, ends = labelled_runs(seen)
    names = ("affiliation_f1", "affiliation_precision", "affiliation_recall")
    if not len(starts):
        return dict.fromkeys(names, math.nan)
    # Borders of zones are halves of bars. Distances, and where they stop to be the smaller of two, then bend at
    # quarters only; between them all integrands are straight lines, and the value in the middle is the mean.
    cells = np.arange(4 * len(seen.scores))
    zones = _zones(seen, starts, ends)
    zone = np.searchsorted((4 * zones.left).astype(np.int64), cells, side="right") - 1
    inside = (zone >= 0) & (cells < 4 * zones.right[zone])  # other cells are of series without an event
    cells, zone = cells[inside], zone[inside]
    flagged, labelled = (seen.scores > threshold)[cells // 4], seen.labels[cells // 4]
    middle = (cells + 0.5) / 4
    precision = _mean_by(_share_farther(middle, zone, zones)[flagged], zone[flagged], len(starts))
    recall = _mean_by(
        _share_beyond_flag(cells, middle, zone, zones, flagged)[labelled], zone[labelled], len(starts)
    ).mean()
    touched = precision[~np.isnan(precision)]
    if not len(touched):
        return dict(zip(names, (0.0, math.nan, float(recall)), strict=True))
    precision = touched.mean()
    f1 = _ratio(2 * precision * recall, precision + recall)
    return dict(zip(names, (0.0 if math.isnan(f1) else f1, float(precision), float(recall)), strict=True))


def _zones(seen: LabelledScores, starts: np.ndarray, ends: np.ndarray) -> _Zones:
    """Find the borders of the zones: half-way between two events of a series, else the ends of the series."""
    series = seen.series[starts]
    counts = np.bincount(seen.series)
    series_end = counts.cumsum()
    same = np.diff(series) == 0
    between = (ends[:-1] + 1 + starts[1:]) / 2
    own_start, own_end = (series_end - counts)[series], series_end[series]
    left = np.append(own_start[:1], np.where(same, between, own_start[1:]))
    right = np.append(np.where(same, between, own_end[:-1]), own_end[-1:])
    return _Zones(starts.astype(np.float64), ends + 1.0, left, right)


def _share_farther(x: np.ndarray, zone: np.ndarray, zones: _Zones) -> np.ndarray:
    """Return the share of the zone that is farther from its event than each place x, in bars, (C,)."""
    begin, end, left, right = (of[zone] for of in zones)
    distance = np.maximum(begin - x, x - end)
    nearer = (end - begin) + np.minimum(distance, np.minimum(begin - left, right - end)) + distance
    return np.where(distance > 0, 1 - nearer / (right - left), 1.0)


def _share_beyond_flag(
    cells: np.ndarray, middle: np.ndarray, zone: np.ndarray, zones: _Zones, flagged: np.ndarray
) -> np.ndarray:
    """Return the share of the zone that is farther from each cell than the nearest flag is, (C,); 0 without a flag."""
    place = np.arange(len(cells))
    before = np.maximum.accumulate(np.where(flagged, place, -1))
    after = np.minimum.accumulate(np.where(flagged, place, len(cells))[::-1])[::-1]
    nearest = np.full(len(cells), np.inf)
    for other in (before, after):
        known = (other >= 0) & (other < len(cells))
        other = other.clip(0, len(cells) - 1)
        gap = (np.abs(cells[other] - cells) - 0.5).clip(min=0) / 4  # from the middle of a cell to the flagged one
        nearest = np.where(known & (zone[other] == zone), np.minimum(nearest, gap), nearest)
    margin = np.minimum(middle - zones.left[zone], zones.right[zone] - middle)
    share = 1 - (np.minimum(nearest, margin) + nearest) / (zones.right - zones.left)[zone]
    return np.where(nearest > 0, np.where(np.isfinite(nearest), share, 0.0), 1.0)


def _mean_by(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return (groups,) the mean of the values of each group, NaN for a group without."""
    with np.errstate(invalid="ignore"):
        return np.bincount(group, values, minlength=groups) / np.bincount(group, minlength=groups)
