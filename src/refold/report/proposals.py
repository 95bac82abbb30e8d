"""Proposed repairs as the page shows them: a text for each event, and marks in the price of an asset."""

from typing import Any

import polars as pl

from refold.report.html_page import milliseconds

MOST_REPAIRS = 2_000
"""Repaired values that are drawn of one asset: the first."""


def describe_repairs(events: pl.DataFrame, repairs: pl.DataFrame) -> list[str | None]:
    """Say for each event what its bars should have been; None where nothing is proposed.

    Args:
        events: asset, start, end.
        repairs: as `refold.scoring.repair.repair` returns them; times as those of the events.
    """
    numbered = events.select("asset", "start", "end").with_row_index("event")
    own = pl.col("event_start") == pl.col("start")
    within = (pl.col("timestamp") >= pl.col("start")) & (pl.col("timestamp") <= pl.col("end"))
    found = repairs.join(numbered, on="asset").filter(own | within)
    texts: list[str | None] = [None] * events.height
    for (event,), rows in found.group_by("event", maintain_order=True):
        parts = [_describe(part) for _, part in rows.group_by("explanation", maintain_order=True)]
        texts[int(str(event))] = "; ".join(parts)
    return texts


def _describe(rows: pl.DataFrame) -> str:
    """Describe the values that one explanation changes."""
    explanation, factor, bars = rows["explanation"][0], rows["factor"][0], rows["timestamp"].n_unique()
    if factor is not None:
        of = "earlier prices" if explanation == "split" else f"{bars} bar{'s' * (bars > 1)}"
        return f"{explanation}: {of} divided by {factor:.6g}"
    if bars > 1:
        return f"{explanation}: {bars} bars"
    return f"{explanation}: {', '.join(_change(row) for row in rows.iter_rows(named=True))}"


def _change(row: dict[str, Any]) -> str:
    return f"{row['column']} {row['value']:.6g} to {row['proposed']:.6g} ({row['low']:.6g} to {row['high']:.6g})"


def repair_marks(repairs: pl.DataFrame | None, asset: str) -> dict[str, Any]:
    """Return the proposed values of an asset, and its splits, as the page draws them.

    Args:
        repairs: as `refold.scoring.repair.repair` returns them, with times of the wall clock; None if there are none.
        asset: its name.
    """
    if repairs is None:
        return {"values": {"time": [], "proposed": [], "low": [], "high": [], "text": []}, "splits": {"time": []}}
    own = repairs.filter(asset=asset).with_columns(milliseconds("timestamp").alias("time"))
    values, splits = own.filter(pl.col("proposed").is_not_null()).head(MOST_REPAIRS), own.filter(explanation="split")
    return {
        "values": {
            **{name: values[name].to_list() for name in ("time", "proposed", "low", "high")},
            "text": [f"proposed, {row['explanation']}: {_change(row)}" for row in values.iter_rows(named=True)],
        },
        "splits": {
            **{name: splits[name].to_list() for name in ("time", "factor")},
            "text": [f"proposed, split: divided by {factor:.6g}" for factor in splits["factor"]],
        },
    }
