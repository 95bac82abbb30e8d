"""How good scores and verdicts are, where the true anomalies are known.

All metrics take `update(scores, labels)` once per series (the bars of one asset, in order of time), so that no event,
and no buffer around one, crosses from one asset into the next; `compute()` looks at all series together. Everything is
float64. Larger scores are stranger; a NaN is refused, because ranking it anywhere would be a guess.

Point-adjusted F1 is not here: it calls an event found as a whole if any of its bars is flagged and counts all of its
bars as hits, and a random score reaches 0.9 with it on public benchmarks (Kim et al. 2022).

Letters: N bars of all series, E events (runs of labelled bars), K thresholds.
"""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from refold.bounds import at_least, checked


class Collected(NamedTuple):
    """What has been seen. scores: (N,) float64. labels: (N,) bool. series: (N,) int64, number of the bar's series."""

    scores: Tensor
    labels: Tensor
    series: Tensor


class SeriesMetric(Metric):
    """Keeps scores and labels, series by series. Args: settings: of `torchmetrics.Metric`."""

    full_state_update = False

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for name in ("scores", "labels", "first"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """One series. Args: scores: (N,), larger is stranger. labels: (N,) bool, True where a bar is anomalous.

        Raises: ValueError: the shapes differ, or a score is NaN.
        """
        scores, labels = torch.as_tensor(scores).double(), torch.as_tensor(labels).bool()
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise ValueError(
                f"scores are {tuple(scores.shape)} and labels {tuple(labels.shape)}; both must be (N,) with the same N"
            )
        missing = int(scores.isnan().sum())
        if missing:
            raise ValueError(f"{missing} of {len(scores)} scores are NaN; leave bars without a score out of both")
        first = torch.zeros_like(labels)
        first[:1] = True
        self.scores.append(scores)
        self.labels.append(labels)
        self.first.append(first)

    def collected(self) -> Collected:
        """All series, one after another, on the CPU: what follows is sorting and counting."""
        scores, labels, first = (dim_zero_cat(state).cpu() for state in (self.scores, self.labels, self.first))
        return Collected(scores, labels, first.long().cumsum(0) - 1)


# Ranking --------------------------------------------------------------------------------------------------------------
# torchmetrics has both, but passes scores outside [0, 1] through a sigmoid, which makes all large ones equal, and then
# divides in float32.


class AveragePrecision(SeriesMetric):
    """Sum over thresholds of (recall_k - recall_{k-1}) precision_k; a random score has the share of anomalous bars.

    NaN without an anomalous bar.
    """

    def compute(self) -> Tensor:
        hits, flagged = _counts(self.collected())
        if hits[-1] == 0:
            return hits.new_tensor(torch.nan)
        return (hits.diff(prepend=hits.new_zeros(1)) * hits / flagged).sum() / hits[-1]


class AUROC(SeriesMetric):
    """The share of pairs of an anomalous and a normal bar that the score puts in the right order; ties count half.

    NaN without both kinds of bars.
    """

    def compute(self) -> Tensor:
        hits, flagged = _counts(self.collected())
        alarms = flagged - hits
        start = hits.new_zeros(1)
        hits, alarms = torch.cat([start, hits]), torch.cat([start, alarms])
        return torch.trapezoid(hits, alarms) / (hits[-1] * alarms[-1])  # 0 / 0 is NaN


def _counts(seen: Collected) -> tuple[Tensor, Tensor]:
    """(K,), (K,) float64: labelled and all bars at or above each distinct score, from the highest down."""
    order = seen.scores.argsort(descending=True)
    scores = seen.scores[order]
    last = torch.cat([scores[1:] != scores[:-1], torch.ones_like(scores[:1], dtype=torch.bool)])  # of its tie
    hits = seen.labels[order].double().cumsum(0)[last]
    flagged = torch.arange(1, len(scores) + 1, dtype=torch.float64)[last]
    return hits, flagged


class VolumeUnderSurface(SeriesMetric):
    """VUS-PR and VUS-ROC: areas under curves whose labels reach softly over the borders of each event, averaged over
    how far they reach; a score that is a few bars early or late is not all wrong.

    For a buffer of l bars the label is 1 inside an event and sqrt(1 - d / l) at a distance of d <= l / 2 from it,
    summed over events and capped at 1. At each of 250 thresholds (evenly spaced ranks) with predictions p, TP = sum of
    label p; recall = min(TP / P_l, 1) x share of buffered events touched, P_l = (P + sum of labels, those of buffers
    only where p = 1) / 2; precision = TP / sum p; false positive rate = (sum p - TP) / (N - P_l). Both areas are means
    over l = 0..max_buffer. NaN without an anomalous bar.

    Only bars near events are looked at for each buffer; the others are counted once, whatever their number.

    Args: max_buffer: bars. num_thresholds: K.
    Source: Paparrizos et al. 2022, "Volume under the surface"; the areas are those of their published code, whose
        precision is not interpolated.
    """

    @checked("metric")
    def __init__(
        self,
        *,
        max_buffer: Annotated[int, at_least(0)],
        num_thresholds: Annotated[int, at_least(2)] = 250,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.max_buffer = max_buffer
        self.num_thresholds = num_thresholds

    def compute(self) -> dict[str, Tensor]:
        """Returns: vus_pr, vus_roc."""
        seen = self.collected()
        N, K = len(seen.scores), self.num_thresholds
        starts, ends = events(seen)
        if not len(starts):
            nothing = seen.scores.new_tensor(torch.nan)
            return {"vus_pr": nothing, "vus_roc": nothing}
        ranks = torch.linspace(0, N - 1, K, dtype=torch.float64).long()  # as the published code: rounded down
        thresholds = seen.scores.sort(descending=True).values[ranks]
        first = torch.searchsorted(-thresholds, -seen.scores)  # (N,) the first threshold at which a bar is predicted
        predicted = _accumulate(first, None, K)
        inside = _accumulate(first[seen.labels], None, K)
        P = inside[-1]
        bars, distance, event = _neighbours(seen, starts, ends, self.max_buffer // 2)
        near, place = bars.unique(return_inverse=True)
        surface = []
        for buffer in range(self.max_buffer + 1):
            reached = distance <= buffer // 2
            label = torch.zeros(len(near), dtype=torch.float64)
            if buffer:
                label.index_add_(0, place[reached], (1 - distance[reached].double() / buffer).sqrt())
            label = torch.where(seen.labels[near], 1.0, label.clamp(max=1))
            TP = _accumulate(first[near], label, K)
            merged = _merge(seen, starts, ends, buffer // 2)[event[reached]]
            found = torch.full((int(merged.max()) + 1,), K).scatter_reduce(0, merged, first[bars[reached]], "amin")
            positives = (P + P + TP - inside) / 2
            recall = (TP / positives).clamp(max=1) * _accumulate(found, None, K) / len(found)
            surface.append((recall, TP / predicted, (predicted - TP) / (N - positives)))
        recall, precision, alarms = (torch.stack(lines) for lines in zip(*surface, strict=True))  # (buffers, K) each
        zero, one = torch.zeros_like(recall[:, :1]), torch.ones_like(recall[:, :1])
        steps = recall.diff(dim=1, prepend=zero)
        roc = torch.trapezoid(torch.cat([zero, recall, one], 1), torch.cat([zero, alarms, one], 1), dim=1)
        return {"vus_pr": (steps * precision).sum(1).mean(), "vus_roc": roc.mean()}


def _accumulate(first: Tensor, weights: Tensor | None, K: int) -> Tensor:
    """(K,) float64: weight of the bars predicted at each threshold. Args: first: the first threshold that does."""
    return torch.bincount(first, weights, minlength=K).double().cumsum(0)


def _neighbours(seen: Collected, starts: Tensor, ends: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bars in or near events, once for each event: row, distance in bars (0 inside), number of the event."""
    length = ends - starts + 1 + 2 * reach
    event = torch.repeat_interleave(torch.arange(len(starts)), length)
    begin = length.cumsum(0) - length
    row = starts[event] - reach + torch.arange(len(event)) - begin[event]
    kept = (row >= 0) & (row < len(seen.series))
    row, event = row[kept], event[kept]
    kept = seen.series[row] == seen.series[starts[event]]
    row, event = row[kept], event[kept]
    return row, torch.maximum(starts[event] - row, row - ends[event]).clamp(min=0), event


def _merge(seen: Collected, starts: Tensor, ends: Tensor, reach: int) -> Tensor:
    """(E,) number of the buffered event that each event is part of: those whose buffers meet are one."""
    apart = (ends[:-1] + reach < starts[1:] - reach) | (seen.series[starts[1:]] != seen.series[ends[:-1]])
    return torch.cat([starts.new_zeros(1), apart.long().cumsum(0)])


# Events ---------------------------------------------------------------------------------------------------------------


def events(seen: Collected) -> tuple[Tensor, Tensor]:
    """(E,), (E,) first and last row of each run of labelled bars of one series."""
    return _runs(seen.labels, seen.series)


def _runs(flags: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    new = series[1:] != series[:-1]
    edge = torch.ones(1, dtype=torch.bool)
    starts = flags & torch.cat([edge, new | ~flags[:-1]])
    ends = flags & torch.cat([new | ~flags[1:], edge])
    return starts.nonzero().flatten(), ends.nonzero().flatten()


def _event_numbers(seen: Collected) -> tuple[Tensor, Tensor]:
    """Rows of all labelled bars, and the number of the event of each."""
    starts, _ = events(seen)
    rows = seen.labels.nonzero().flatten()
    return rows, torch.searchsorted(starts, rows, right=True) - 1


class EventF1(SeriesMetric):
    """Counts events where they are found, and bars where they are false: recall is the share of events with a flagged
    bar, precision = events found / (events found + flagged bars outside all events).

    One flagged bar finds an event, however long it is; each wrongly flagged bar costs, so flagging everything does not
    pay. A precision without any flag is NaN, and F1 then 0.

    Args: threshold: a bar is flagged if its score is above it.
    """

    def __init__(self, *, threshold: float, **settings: Any):
        super().__init__(**settings)
        self.threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Returns: event_f1, event_precision, event_recall."""
        seen = self.collected()
        flagged = seen.scores > self.threshold
        _, number = _event_numbers(seen)
        E = int(number.max()) + 1 if len(number) else 0
        found = torch.bincount(number[flagged[seen.labels]], minlength=E).count_nonzero().double()
        false = (flagged & ~seen.labels).sum().double()
        return {
            "event_f1": 2 * found / (found + false + E),
            "event_precision": found / (found + false),
            "event_recall": found / E,
        }


class BestThreshold(SeriesMetric):
    """The threshold with the largest `EventF1`, for validation data; the highest of equals.

    It lies half-way between two scores that occur, or at -inf if all bars are best flagged.
    """

    def compute(self) -> dict[str, Tensor]:
        """Returns: threshold, event_f1."""
        seen = self.collected()
        rows, number = _event_numbers(seen)
        if not len(rows):
            return dict.fromkeys(("threshold", "event_f1"), seen.scores.new_tensor(torch.nan))
        E = int(number.max()) + 1
        tops = torch.full((E,), -torch.inf, dtype=torch.float64).scatter_reduce(0, number, seen.scores[rows], "amax")
        normal = seen.scores[~seen.labels].sort().values
        candidates = tops.unique()  # between two of them only false alarms change: each is best reached from just below
        found = E - torch.searchsorted(tops.sort().values, candidates)
        false = len(normal) - torch.searchsorted(normal, candidates)
        f1 = 2 * found / (found + false + E).double()
        best = int((f1 == f1.max()).nonzero().max())
        below = seen.scores[seen.scores < candidates[best]]
        low = below.max() if len(below) else candidates.new_tensor(-torch.inf)
        middle = low + (candidates[best] - low) / 2
        # of two neighbouring floats the middle is one of the two
        return {"threshold": torch.where(middle < candidates[best], middle, low), "event_f1": f1[best]}


class DetectionDelay(SeriesMetric):
    """Bars from the first bar of an event to the first that is flagged in it, over the events that are found.

    Says nothing without the share of events found: finding none has no delay.

    Args: threshold: a bar is flagged if its score is above it.
    """

    def __init__(self, *, threshold: float, **settings: Any):
        super().__init__(**settings)
        self.threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Returns: mean_delay_bars and median_delay_bars, NaN if no event is found."""
        seen = self.collected()
        starts, _ = events(seen)
        rows, number = _event_numbers(seen)
        hit = seen.scores[rows] > self.threshold
        far = torch.full((len(starts),), len(seen.scores))
        first = far.scatter_reduce(0, number[hit], rows[hit], "amin")
        delay = (first - starts)[first < len(seen.scores)].double()
        return {
            "mean_delay_bars": delay.mean(),
            "median_delay_bars": delay.quantile(0.5) if len(delay) else delay.mean(),
        }


class Affiliation(SeriesMetric):
    """How near flagged bars are to events and events to flagged bars, each distance as the share of places in the
    event's zone that would have been farther away.

    The zone of an event is what is nearer to it than to any other event of its series. Precision is the mean over zones
    with a flag, of the mean over what is flagged there; recall the mean over all zones, of the mean over the event, 0
    where nothing is flagged in the zone. A random score has about 0.5, and flags in series without an event cost
    nothing: never alone. Without any flag precision is NaN and F1 0.

    Args: threshold: a bar is flagged if its score is above it.
    Source: Huet et al. 2022, arXiv 2206.13167. Bar i is the interval [i, i + 1).
    """

    def __init__(self, *, threshold: float, **settings: Any):
        super().__init__(**settings)
        self.threshold = threshold

    def compute(self) -> dict[str, Tensor]:
        """Returns: affiliation_f1, affiliation_precision, affiliation_recall."""
        seen = self.collected()
        starts, ends = events(seen)
        if not len(starts):
            names = ("affiliation_f1", "affiliation_precision", "affiliation_recall")
            return dict.fromkeys(names, seen.scores.new_tensor(torch.nan))
        # Borders of zones are halves of bars. Distances, and where they stop to be the smaller of two, then bend at
        # quarters only; between them all integrands are straight lines, and the value in the middle is the mean.
        cells = torch.arange(4 * len(seen.scores))
        zone, left, right = self._zones(seen, starts, ends, cells)
        known = zone >= 0
        cells, zone = cells[known], zone[known]
        flagged = (seen.scores > self.threshold)[cells // 4]
        middle = (cells.double() + 0.5) / 4
        begin, end = starts.double(), ends.double() + 1
        size = right - left
        precision = _mean_by(self._near_event(middle, zone, begin, end, left, right)[flagged], zone[flagged], len(size))
        inside = seen.labels[cells // 4]
        nearest = _to_nearest(cells, zone, flagged)[inside] / 4
        y, z = middle[inside], zone[inside]
        margin = torch.minimum(y - left[z], right[z] - y)
        survival = torch.where(nearest > 0, 1 - (torch.minimum(nearest, margin) + nearest) / size[z], 1.0)
        recall = _mean_by(survival.where(nearest.isfinite(), 0.0), z, len(size)).mean()
        precision = precision[~precision.isnan()].mean()
        f1 = 2 * precision * recall / (precision + recall)
        return {
            "affiliation_f1": f1.nan_to_num(0.0),
            "affiliation_precision": precision,
            "affiliation_recall": recall,
        }

    def _zones(self, seen: Collected, starts: Tensor, ends: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The zone of each quarter bar, -1 in series without an event, and the borders of the zones, in bars."""
        series = seen.series[starts]
        counts = torch.bincount(seen.series)
        series_end = counts.cumsum(0)
        same = series[1:] == series[:-1]
        between = (ends[:-1] + 1 + starts[1:]).double() / 2
        own_start, own_end = (series_end - counts)[series].double(), series_end[series].double()
        left = torch.cat([own_start[:1], torch.where(same, between, own_start[1:])])
        right = torch.cat([torch.where(same, between, own_end[:-1]), own_end[-1:]])
        zone = torch.searchsorted((4 * left).long(), cells, right=True) - 1
        outside = (zone < 0) | (cells >= (4 * right).long()[zone.clamp(min=0)])
        return zone.masked_fill(outside, -1), left, right

    def _near_event(self, x: Tensor, zone: Tensor, begin: Tensor, end: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The share of the zone that is farther from its event than x is. Args: x: positions, in bars."""
        distance = torch.maximum(begin[zone] - x, x - end[zone])
        margin = torch.minimum(begin - left, right - end)[zone]
        nearer = (end - begin)[zone] + torch.minimum(distance, margin) + distance
        return torch.where(distance > 0, 1 - nearer / (right - left)[zone], 1.0)


def _mean_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups,) mean of the values of each group, NaN for a group without."""
    return torch.bincount(group, values, minlength=groups) / torch.bincount(group, minlength=groups)


def _to_nearest(cells: Tensor, zone: Tensor, flagged: Tensor) -> Tensor:
    """Distance from the middle of each cell to the nearest flagged cell of its zone, in cells; inf without one."""
    place = torch.arange(len(cells))
    before = torch.where(flagged, place, -1).cummax(0).values
    after = torch.where(flagged, place, len(cells)).flip(0).cummin(0).values.flip(0)
    distance = torch.full((len(cells),), torch.inf, dtype=torch.float64)
    for other in (before, after):
        known = (other >= 0) & (other < len(cells))
        other = other.clamp(0, len(cells) - 1)
        gap = ((cells[other] - cells).abs().double() - 0.5).clamp(min=0)
        distance = torch.where(known & (zone[other] == zone), torch.minimum(distance, gap), distance)
    return distance
