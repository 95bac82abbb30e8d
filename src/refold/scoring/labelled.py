"""Detection metrics of a run's own score, against the anomalies that its data source labels."""

import polars as pl

from refold.scoring.detection_metrics import average_precision, event_f1, pool, volume_under_surface

MAX_BUFFER = 100
"""Bars, of VUS-PR: how far labels reach softly over the borders of an event."""


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
