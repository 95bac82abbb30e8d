"""Detection metrics of scores and verdicts, against anomalies that a column or a data source labels."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from refold.scoring.detection_metrics import auroc, average_precision, event_f1, pool, volume_under_surface

MAX_BUFFER = 100
"""Bars, of VUS-PR: how far labels reach softly over the borders of an event."""

MODEL = "LSTM autoencoder"
"""Name of the model among the scorers that it is compared with."""

MOST_FALSE_ALARMS = 20
"""False alarms that a result lists, the highest scores first."""

NEED_ANOMALIES = ("average_precision", "auroc", "vus_pr", "event_f1", "event_precision", "event_recall")
"""Metrics without a value where no bar is labelled 1."""


class LabelledBars(NamedTuple):
    """Scores and verdicts of bars whose labels are known, asset after asset in order of time.

    Attributes:
        score: (N,) float64, larger is stranger; NaN where there is none.
        flagged: (N,) bool, False where there is no score.
        label: (N,) bool, True where the bar is labelled 1.
        asset: (N,) int, equal numbers are neighbours.
    """

    score: np.ndarray
    flagged: np.ndarray
    label: np.ndarray
    asset: np.ndarray


def detection_metrics(bars: LabelledBars) -> dict[str, float]:
    """Measure scores and verdicts against labels, over the bars that have a score.

    Args:
        bars: N bars.

    Returns:
        average_precision, auroc and vus_pr of the scores; event_f1, event_precision and event_recall of the verdicts;
        alarms and false_alarms, numbers of runs of flagged bars, and of those that touch no labelled bar; false_bars,
        the number of flagged bars that are not labelled. NaN where a metric has no value.
    """
    counts = {
        "alarms": len(runs_of(bars.flagged, bars.asset)),
        "false_alarms": len(false_alarms(bars)),
        "false_bars": int((bars.flagged & ~bars.label).sum()),
    }
    scored = ~np.isnan(bars.score)
    if not (bars.label & scored).any():
        return {**dict.fromkeys(NEED_ANOMALIES, math.nan), **counts}
    rows = [np.flatnonzero(scored & (bars.asset == asset)) for asset in np.unique(bars.asset[scored])]
    seen = pool((bars.score[own], bars.label[own]) for own in rows)
    verdicts = pool((bars.flagged[own], bars.label[own]) for own in rows)
    return {
        "average_precision": average_precision(seen),
        "auroc": auroc(seen),
        "vus_pr": volume_under_surface(seen, max_buffer=MAX_BUFFER)["vus_pr"],
        **event_f1(verdicts, threshold=0.5),
        **counts,
    }


def why_missing(bars: LabelledBars, name: str) -> dict[str, str]:
    """Say why metrics of some bars may have no value.

    Args:
        bars: N bars.
        name: what the bars are, such as "the test part".

    Returns:
        Metric -> reason.
    """
    scored = ~np.isnan(bars.score)
    reasons: dict[str, str] = {"event_precision": f"no bar of {name} is flagged"}
    if bars.label[scored].all():
        reasons["auroc"] = f"every bar of {name} that has a score is labelled 1"
    if not bars.label[scored].any():
        reasons |= dict.fromkeys(NEED_ANOMALIES, f"no bar of {name} that has a score is labelled 1")
    return reasons


def label_counts(bars: LabelledBars) -> dict[str, int]:
    """Count bars with a score, those of them that are labelled 1, their runs, and labelled bars without a score."""
    scored = ~np.isnan(bars.score)
    found = bars.label & scored
    return {
        "bars": int(scored.sum()),
        "anomalous_bars": int(found.sum()),
        "anomalous_events": len(runs_of(found, bars.asset)),
        "anomalous_without_score": int((bars.label & ~scored).sum()),
    }


def runs_of(chosen: np.ndarray, asset: np.ndarray) -> np.ndarray:
    """Find the runs of neighbouring chosen bars.

    Args:
        chosen: (N,) bool.
        asset: (N,) int, equal numbers are neighbours.

    Returns:
        (E, 2) first and last bar of each run.
    """
    new = np.append(True, asset[1:] != asset[:-1])
    first = chosen & (new | ~np.append(False, chosen[:-1]))
    last = chosen & (np.append(new[1:], True) | ~np.append(chosen[1:], False))
    return np.stack([np.flatnonzero(first), np.flatnonzero(last)], axis=1)


def false_alarms(bars: LabelledBars) -> np.ndarray:
    """Find the alarms, runs of flagged bars, that touch no labelled bar.

    Args:
        bars: N bars.

    Returns:
        (E, 2) first and last bar of each, the one with the highest score first.
    """
    alarms = runs_of(bars.flagged, bars.asset)
    before = np.append(0, np.cumsum(bars.label))
    false = alarms[before[alarms[:, 1] + 1] == before[alarms[:, 0]]]
    peaks = np.array([bars.score[first : last + 1].max() for first, last in false])
    return false[np.argsort(-peaks, kind="stable")] if len(false) else false


class LabelledTable:
    """Collect the labelled rows of tables of scored bars that come one after the other.

    Some 22 bytes of each row are kept.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: dict[str, list[pl.DataFrame]] = {}

    def __len__(self) -> int:
        return sum(table.height for tables in self._parts.values() for table in tables)

    def add(self, table: pl.DataFrame, part: str) -> None:
        """Add the next rows.

        Args:
            table: timestamp, asset, score (null where there is none), verdict and label, in order; others are ignored.
            part: what the rows belong to, such as "test".
        """
        for name in table["asset"].unique(maintain_order=True):
            self._numbers.setdefault(name, len(self._numbers))
        rows = table.select(
            "timestamp",
            pl.col("asset").replace_strict(self._numbers, return_dtype=pl.Int32),
            "score",
            pl.col("verdict").fill_null(False),
            pl.col("label").fill_null(0) == 1,
        )
        self._parts.setdefault(part, []).append(rows)

    def measure(self) -> dict[str, dict[str, Any]]:
        """Measure scores and verdicts against the labels.

        Returns:
            For each part the counts of `label_counts`, the metrics of `detection_metrics` (None where there is no
            value), "missing" (metric -> why it has none), and "listed_false_alarms", as `list_false_alarms` lists them.
        """
        return {part: self._measure(part, pl.concat(tables)) for part, tables in self._parts.items()}

    def _measure(self, part: str, rows: pl.DataFrame) -> dict[str, Any]:
        score = rows["score"].fill_null(math.nan).to_numpy()
        bars = LabelledBars(score, rows["verdict"].to_numpy(), rows["label"].to_numpy(), rows["asset"].to_numpy())
        metrics, reasons = detection_metrics(bars), why_missing(bars, part)
        return {
            **label_counts(bars),
            **{key: None if math.isnan(value) else value for key, value in metrics.items()},
            "missing": {key: reasons[key] for key, value in metrics.items() if math.isnan(value)},
            "listed_false_alarms": list_false_alarms(bars, rows["timestamp"], list(self._numbers)),
        }

    def count_in(self, events: pl.DataFrame) -> pl.Series:
        """Count the labelled bars inside each event.

        Args:
            events: asset, start and end of each; null for rows without a date or an asset.

        Returns:
            (E,) int64, named labelled_bars; null where nothing can be counted.
        """
        labelled = pl.concat([table.filter("label") for tables in self._parts.values() for table in tables])
        times = labelled.select("asset", pl.col("timestamp").to_physical().cast(pl.Int64))
        by_asset = {number: rows["timestamp"].sort().to_numpy() for (number,), rows in times.group_by("asset")}
        spans = events.select("asset", *(pl.col(name).to_physical().cast(pl.Int64) for name in ("start", "end")))
        nothing = np.zeros(0, dtype=np.int64)
        counts: list[int | None] = []
        for asset, start, end in spans.iter_rows():
            if asset is None or start is None or end is None:
                counts.append(None)
                continue
            own = by_asset.get(self._numbers.get(asset, -1), nothing)
            counts.append(int(np.searchsorted(own, end, side="right") - np.searchsorted(own, start, side="left")))
        return pl.Series("labelled_bars", counts, dtype=pl.Int64)


def list_false_alarms(bars: LabelledBars, timestamps: pl.Series, assets: Sequence[str]) -> list[dict[str, Any]]:
    """List the false alarms with the highest scores.

    Args:
        bars: N bars.
        timestamps: (N,) of the bars.
        assets: names behind the numbers of assets.

    Returns:
        asset, start and end (texts) and score (the highest) of each, at most MOST_FALSE_ALARMS.
    """
    found = false_alarms(bars)[:MOST_FALSE_ALARMS]
    moments = timestamps.gather(found.reshape(-1)).cast(pl.String).to_list()
    return [
        {
            "asset": assets[int(bars.asset[first])],
            "start": moments[2 * number],
            "end": moments[2 * number + 1],
            "score": float(bars.score[first : last + 1].max()),
        }
        for number, (first, last) in enumerate(found.tolist())
    ]


def against_labels(bars: pl.DataFrame, labels: pl.DataFrame, level: float) -> dict[str, float]:
    """Measure scores against known anomalies, over the bars that have a score.

    Args:
        bars: timestamp, asset and score, asset after asset in order of time; NaN where a bar has no score.
        labels: timestamp and asset of the anomalous bars, among these bars or others.
        level: a bar is flagged if its score is above it.

    Returns:
        average_precision, vus_pr and event_f1; nothing if no bar with a score is anomalous.
    """
    marked = labels.select(pl.col("timestamp").cast(bars.schema["timestamp"]), "asset", anomalous=True).unique()
    scored = bars.filter(pl.col("score").is_not_nan())
    scored = scored.join(marked, on=["timestamp", "asset"], how="left", maintain_order="left")
    if scored["anomalous"].null_count() == scored.height:
        return {}
    seen = pool(
        (series["score"].to_numpy(), series["anomalous"].fill_null(False).to_numpy())
        for series in scored.partition_by("asset", maintain_order=True)
    )
    return {
        "average_precision": average_precision(seen),
        "vus_pr": volume_under_surface(seen, max_buffer=MAX_BUFFER)["vus_pr"],
        "event_f1": event_f1(seen, threshold=level)["event_f1"],
    }
