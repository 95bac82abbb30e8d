"""Counts, histograms and means over all scored bars, read some rows at a time."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from refold.report.asset_series import CONTRIBUTION
from refold.report.html_page import json_number, typed_array

BINS = 80
"""Of a histogram."""

SCORES_AT_ONCE = 200_000
"""Scores that are read from a file at a time."""


def count_bars(scan: pl.LazyFrame, events: pl.DataFrame | None) -> dict[str, str]:
    """Count assets, bars, flagged bars and events, as texts for the head of the page.

    Args:
        scan: rows of scores.parquet.
        events: one row each; None if the bars were not gathered into events.

    Returns:
        name -> text; only {"bars": "none"} for an empty table.
    """
    seen = (
        scan.group_by("asset")
        .agg(
            pl.len().alias("bars"),
            pl.col("score").is_not_null().sum().alias("scored"),
            pl.col("verdict").sum().alias("flagged"),
            pl.col("timestamp").min().alias("start"),
            pl.col("timestamp").max().alias("end"),
            pl.col("timestamp").cast(pl.Date).n_unique().alias("days"),
        )
        .collect(engine="streaming")
    )
    if seen.height == 0:
        return {"bars": "none"}
    years = float(((seen["end"] - seen["start"]) / timedelta(days=365.25)).cast(pl.Float64).sum())
    days = int(seen["days"].sum())
    unit, spans = ("day", days) if seen["bars"].sum() > 1.1 * days else ("year", years)
    counts = {
        "assets": f"{seen.height:,}",
        "from": f"{seen['start'].min():%Y-%m-%d}",
        "to": f"{seen['end'].max():%Y-%m-%d}",
        "bars": f"{seen['bars'].sum():,}",
        "scored": f"{seen['scored'].sum():,}",
        "flagged bars": f"{seen['flagged'].sum():,}",
    }
    if events is not None:
        counts["events"] = f"{events.height:,}"
    alarms = int(seen["flagged"].sum()) if events is None else events.height
    if spans > 0:
        counts[f"{'flagged' if events is None else 'events'} per asset and {unit}"] = f"{alarms / spans:.2f}"
    return counts


def count_findings(findings: pl.DataFrame | None) -> dict[str, str]:
    """Count the bars that checks found, as texts for the head of the page.

    Args:
        findings: events that checks found, with the column bars; None if they are not known.
    """
    if findings is None:
        return {}
    return {"found by checks": f"{findings['bars'].sum():,} bars in {findings.height:,} runs"}


def score_histogram(split_scores: Mapping[str, np.ndarray | pl.LazyFrame], scan: pl.LazyFrame) -> dict[str, Any] | None:
    """Count the shares of each part's scores in common bins, on a logarithmic axis where the scores allow it.

    Args:
        split_scores: part -> its scores (N,), or a lazy frame with a column score; NaN is left out.
        scan: rows of scores.parquet, for the level.

    Returns:
        What the page draws; None if no score is finite.
    """
    spans = [_span(values) for part in split_scores.values() for values in _finite_scores(part)]
    if not spans:
        return None
    lows, usual, highs = zip(*spans, strict=True)
    edges = _edges(min(lows), min(usual), max(highs))
    counts = {
        name: sum(
            (np.histogram(np.clip(values, edges[0], None), edges)[0] for values in _finite_scores(part)),
            start=np.zeros(len(edges) - 1, dtype=np.int64),
        )
        for name, part in split_scores.items()
    }
    return {
        "logarithmic": bool(edges[0] > 0),
        "edges": typed_array(edges, "f8"),
        "threshold": json_number(_mean_level(scan)),
        "parts": {
            name: {"share": typed_array(count / count.sum(), "f8"), "count": int(count.sum())}
            for name, count in counts.items()
            if count.any()
        },
    }


def _finite_scores(scores: np.ndarray | pl.LazyFrame) -> Iterator[np.ndarray]:
    """Yield the finite scores of a part, some at a time."""
    if isinstance(scores, np.ndarray):
        parts = iter([scores])
    else:
        batches = scores.select("score").collect_batches(chunk_size=SCORES_AT_ONCE)
        parts = (rows["score"].to_numpy() for rows in batches)
    for part in parts:
        values = np.asarray(part, dtype=np.float64)
        if np.isfinite(values).any():
            yield values[np.isfinite(values)]


def _span(values: np.ndarray) -> tuple[float, float, float]:
    """Return the lowest value, the 0.1 % quantile of the positive ones, and the highest value."""
    positive = values[values > 0]
    return values.min(), float(np.quantile(positive, 0.001)) if len(positive) else np.inf, values.max()


def _mean_level(scan: pl.LazyFrame) -> float | None:
    """Compute the mean threshold of all bars; return None if no bar has one."""
    return scan.select(pl.col("threshold").fill_nan(None).mean()).collect(engine="streaming").item()


def _edges(low: float, usual: float, high: float) -> np.ndarray:
    """Return edges of bins for all values; logarithmic, from the usual values on, where no value is below 0."""
    if low >= 0 and high > 0:
        low = usual
        edges = np.geomspace(low, high, BINS + 1) if low < high else np.array([low / 2, high * 2])
    else:
        edges = np.linspace(low, high, BINS + 1) if low < high else np.array([low - 0.5, high + 0.5])
    edges[-1] = max(edges[-1], high)  # geomspace may end below it by a rounding
    return edges


def is_skewed(scan: pl.LazyFrame) -> bool:
    """Return whether the highest score would press all others and the threshold flat on a linear axis."""
    score, level = pl.col("score").fill_nan(None), _mean_level(scan)
    ends = scan.select(score.max().alias("top"), score.min().alias("least")).collect(engine="streaming")
    top, least = ends.row(0)
    return top is not None and level is not None and least is not None and least >= 0 and top > 20 * level


def feature_section(given: Mapping[str, Mapping[str, float]] | None, scan: pl.LazyFrame) -> dict[str, Any] | None:
    """Gather each feature's error by part, and its mean contribution to the scores of flagged and of other bars.

    Args:
        given: part -> feature -> mean squared error, in training variances; None if it was not measured.
        scan: rows of scores.parquet, with columns contribution/<feature> as far as there.

    Returns:
        What the page draws; None if there is neither.
    """
    names = [name for name in scan.collect_schema().names() if name.startswith(CONTRIBUTION)]
    shares = None
    if names:
        means = scan.group_by("verdict").agg(pl.col(name).fill_nan(None).mean() for name in names)
        rows = means.collect(engine="streaming").sort("verdict", nulls_last=True).iter_rows(named=True)
        shares = {
            "flagged bars" if row["verdict"] else "other bars": [json_number(row[name]) for name in names]
            for row in rows
            if row["verdict"] is not None
        }
    if not given and not shares:
        return None
    parts = (given or {}).items()
    errors = {part: {name: json_number(value) for name, value in values.items()} for part, values in parts}
    return {"errors": errors, "names": [name.removeprefix(CONTRIBUTION) for name in names], "contributions": shares}
