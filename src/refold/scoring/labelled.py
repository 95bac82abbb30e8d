"""What a run's own score finds of anomalies that the source of its data knows of."""

from typing import Any

import polars as pl

from refold.scoring.detection_metrics import AveragePrecision, EventF1, VolumeUnderSurface

MAX_BUFFER = 100
"""Bars, of VUS-PR: how far labels reach softly over the borders of an event."""


def against_labels(bars: pl.DataFrame, labels: pl.DataFrame, level: float) -> dict[str, float]:
    """Average precision, VUS-PR and event F1 of the bars that have a score; nothing if none of them is anomalous.

    Args:
        bars: timestamp, asset and score, asset after asset in order of time; a score that is not there is NaN.
        labels: timestamp and asset of the anomalous bars, there or elsewhere.
        level: a bar is flagged if its score is above it.
    """
    marked = labels.select(pl.col("timestamp").cast(bars.schema["timestamp"]), "asset", anomalous=True).unique()
    scored = bars.filter(pl.col("score").is_not_nan())
    scored = scored.join(marked, on=["timestamp", "asset"], how="left", maintain_order="left")
    if scored["anomalous"].null_count() == scored.height:
        return {}
    metrics: list[Any] = [AveragePrecision(), VolumeUnderSurface(max_buffer=MAX_BUFFER), EventF1(threshold=level)]
    for series in scored.partition_by("asset", maintain_order=True):
        for metric in metrics:
            metric.update(series["score"].to_torch(), series["anomalous"].fill_null(False).to_torch())
    precision, volume, events = (metric.compute() for metric in metrics)
    found = {"average_precision": precision, "vus_pr": volume["vus_pr"], "event_f1": events["event_f1"]}
    return {name: float(value) for name, value in found.items()}
