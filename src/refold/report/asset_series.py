"""Price and score of each asset as the page draws them: few enough points for a browser, and every flagged bar."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from refold.report.html_page import json_number, milliseconds, time_zone, typed_array, wall_clock
from refold.report.proposals import repair_marks

MOST_POINTS = 160_000
"""Bars on the page, all assets counted. Of more, the extremes of each bin and every flagged bar are kept."""

MOST_POINTS_OF_ONE = 20_000
"""Bars of one asset: as many as a browser draws without a pause."""

MOST_FINDINGS = 2_000
"""Runs of one asset that checks found, and as many stretches without scores: the longest."""

MOST_FLAGGED = 20_000
"""Flagged bars with their reasons; of more, those with the highest scores."""

ROWS_AT_ONCE = 200_000
"""Bars that are read from a file at a time."""

CONTRIBUTION = "contribution/"
"""Prefix of the columns that hold each feature's share of a score."""


def asset_series(
    scan: pl.LazyFrame,
    events: pl.DataFrame | None,
    findings: pl.DataFrame | None = None,
    beside: pl.DataFrame | None = None,
    repairs: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Return each asset's bars, thinned, its flagged bars with their reasons, and its stretches without scores.

    Args:
        scan: rows of scores.parquet, sorted by asset, then time.
        events: events of the model: asset, start, end, kind, with times of the wall clock; None if there are none.
        findings: events that checks found, with bars and done; None if they are not known.
        beside: events of a second verdict, with bars; None if there is none.
        repairs: proposed for the events, with times of the wall clock; None if there are none.

    Returns:
        asset -> what the page draws of it, in the order of `scan`.
    """
    schema = scan.collect_schema()
    lines = [name for name in ("close", "reconstructed_close", "score", "threshold") if name in schema]
    contributions = [name for name in schema.names() if name.startswith(CONTRIBUTION)]
    least = _least_flagged(scan)
    counts = scan.group_by("asset").len().collect(engine="streaming").sort("asset")
    scan = wall_clock(scan, time_zone(scan), "timestamp").with_columns(
        pl.col(lines).cast(pl.Float64).fill_nan(None),
        # a flagged bar below the shown ones is drawn like any other bar
        (pl.col("verdict").fill_null(False) & (pl.col("score").fill_nan(None).fill_null(0) >= least)).alias("verdict"),
    )
    drawn, start = {}, 0
    for asset, count in counts.iter_rows():
        points, bars = min(MOST_POINTS_OF_ONE, max(400, MOST_POINTS // counts.height)), scan.slice(start, count)
        start += count
        if asset is None:
            continue
        kept, flagged, unscored, spacing = _thinned(bars, count, points)
        flagged = _with_event(flagged, None if events is None else events.filter(pl.col("asset") == asset))
        drawn[asset] = {
            "bars": count,
            "time": typed_array(kept.select(milliseconds("timestamp")), "f8"),
            "lines": {name: typed_array(kept[name], "f4") for name in lines if kept[name].is_not_null().any()},
            "shown": kept.height,
            "spacing": spacing,
            "flagged": {
                "time": typed_array(flagged.select(milliseconds("timestamp")), "f8"),
                "close": typed_array(flagged["close"], "f4") if "close" in flagged.columns else None,
                "score": typed_array(flagged["score"], "f4"),
                "kind": flagged["kind"].to_list(),
                "reason": [_reason(row, contributions) for row in flagged.iter_rows(named=True)],
            },
            "unscored": _spans(unscored, "reason"),
            "findings": _spans(None if findings is None else _with_close(findings.filter(asset=asset), kept), "kind"),
            "beside": _spans(None if beside is None else beside.filter(asset=asset).drop("done"), "kind"),
            "repairs": repair_marks(repairs, asset),
        }
    return drawn


def _thinned(
    bars: pl.LazyFrame, count: int, points: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, float | None]:
    """Return the bars of one asset to draw, its flagged bars, its stretches without scores, and the time of a bar.

    The time is the median from one bar to the next, in milliseconds.
    """
    kept, flagged, unscored, spacing = [], [], [], None
    for first in range(0, count, ROWS_AT_ONCE):
        some = bars.slice(first, ROWS_AT_ONCE).collect()
        flagged.append(some.filter("verdict"))
        unscored.append(without_scores(some, first))
        kept.append(thin_bars(some, max(4, points * some.height // count)))
        spacing = spacing or json_number(some.select(milliseconds("timestamp").diff().median()).item())
    stretches = pl.concat(unscored)
    goes_on = (pl.col("first") == pl.col("last").shift(1) + 1) & pl.col("reason").eq_missing(pl.col("reason").shift(1))
    stretches = stretches.group_by((~goes_on.fill_null(False)).cum_sum().alias("stretch"), maintain_order=True).agg(
        pl.col("start").first(), pl.col("end").last(), pl.col("bars").sum(), pl.col("reason").first()
    )
    return pl.concat(kept), pl.concat(flagged), stretches.drop("stretch"), spacing


def without_scores(bars: pl.DataFrame, first: int = 0) -> pl.DataFrame:
    """Find the stretches of bars that have no score for one reason.

    Args:
        bars: bars of one asset in order of time: timestamp, score, perhaps reason.
        first: number of the first of them.

    Returns:
        start, end, bars, reason, first and last (numbers of bars), in order of time.
    """
    reason = pl.col("reason") if "reason" in bars.columns else pl.lit(None, pl.String)
    lacking = pl.col("score").is_null()
    row = (first + pl.int_range(pl.len())).alias("row")
    marks = bars.select("timestamp", row, lacking.alias("lacking"), pl.when(lacking).then(reason).alias("reason"))
    stretch = pl.struct("lacking", "reason").rle_id().alias("stretch")
    found = marks.with_columns(stretch).filter("lacking").group_by("stretch", maintain_order=True)
    return found.agg(
        pl.col("timestamp").first().alias("start"),
        pl.col("timestamp").last().alias("end"),
        pl.len().cast(pl.Int64).alias("bars"),
        pl.col("reason").first(),
        pl.col("row").first().alias("first"),
        pl.col("row").last().alias("last"),
    ).drop("stretch")


def _shortened(spans: pl.DataFrame) -> pl.DataFrame:
    """Keep the longest MOST_FINDINGS spans, in their order."""
    if spans.height <= MOST_FINDINGS:
        return spans
    longest = spans.with_row_index("place").sort("bars", descending=True, maintain_order=True).head(MOST_FINDINGS)
    return longest.sort("place").drop("place")


def _with_close(findings: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """Add to the findings of an asset the close that is drawn next to the start of each, where prices are drawn."""
    if "close" not in kept.columns or kept["close"].is_null().all():
        return findings
    drawn = kept.select("timestamp", pl.col("close").cast(pl.Float64)).drop_nulls()
    starts = findings.drop_nulls("start").with_columns(moment=pl.col("start").cast(drawn.schema["timestamp"]))
    joined = starts.sort("moment").join_asof(drawn, left_on="moment", right_on="timestamp", strategy="nearest")
    return joined.drop("moment", "timestamp", strict=False)


def _spans(spans: pl.DataFrame | None, name: str) -> dict[str, Any]:
    """Return spans of time with what they are called, as the page draws them."""
    if spans is None:
        return {"start": [], "end": [], "bars": [], name: [], "total": 0}
    spans = spans.drop_nulls("start")
    total, spans = spans.height, _shortened(spans)
    told = {column: spans[column].to_list() for column in ("bars", name, "done", "close") if column in spans.columns}
    ends = spans.select(milliseconds("start"), milliseconds("end"))
    return {**told, "start": ends["start"].to_list(), "end": ends["end"].to_list(), "total": total}


def _least_flagged(scan: pl.LazyFrame) -> float:
    """Return the lowest score of flagged bars to show; -inf unless more than MOST_FLAGGED are flagged."""
    flagged = scan.filter(pl.col("verdict")).select(pl.col("score").fill_nan(None)).collect()["score"]
    if len(flagged) <= MOST_FLAGGED:
        return -np.inf
    return float(flagged.top_k(MOST_FLAGGED).cast(pl.Float64).to_numpy().min())


def thin_bars(bars: pl.DataFrame, points: int) -> pl.DataFrame:
    """Keep about `points` bars of one asset that draw the same picture as all of them.

    Kept are the first bar, the last, every flagged one, and the bars where price and score are lowest and highest in
    each bin of neighbours.

    Args:
        bars: bars in order of time, with score and verdict, perhaps close; no NaN.
        points: at least 4.
    """
    if bars.height <= points:
        return bars
    columns = [name for name in ("close", "score") if name in bars.columns]
    bins = max(1, points // (2 * len(columns)))
    rows = bars.select(*columns, row=pl.int_range(pl.len())).with_columns(bin=pl.col("row") * bins // bars.height)
    extremes = [
        pl.col("row").gather(place).first().alias(f"{name}/{n}")
        for name in columns
        for n, place in enumerate((pl.col(name).arg_min(), pl.col(name).arg_max()))
    ]
    found = rows.group_by("bin").agg(extremes).drop("bin")
    kept = np.zeros(bars.height, dtype=bool)
    for column in found:
        kept[column.drop_nulls().to_numpy()] = True
    kept[[0, -1]] = True
    return bars.filter(pl.Series(kept) | pl.col("verdict"))


def _with_event(flagged: pl.DataFrame, events: pl.DataFrame | None) -> pl.DataFrame:
    """Add to flagged bars the kind of the event that they are part of, null where there is none."""
    if events is None or events.height == 0 or flagged.height == 0:
        return flagged.with_columns(kind=pl.lit(None, pl.String))
    flagged = flagged.drop("kind", strict=False)  # of the bar alone, where the scores were kept in memory
    spans = events.select(pl.col("start").cast(flagged["timestamp"].dtype), "end", "kind").sort("start")
    joined = flagged.join_asof(spans, left_on="timestamp", right_on="start", strategy="backward", coalesce=False)
    inside = pl.col("timestamp") <= pl.col("end").cast(flagged["timestamp"].dtype)
    return joined.with_columns(kind=pl.when(inside).then("kind")).drop("start", "end")


def _reason(bar: Mapping[str, Any], contributions: Sequence[str]) -> str:
    """Write the hover text of a flagged bar: kind, prices, score and the features to blame."""
    when = bar["timestamp"]
    lines = [f"<b>{_escaped(bar['kind'] or 'flagged')}</b>  {when:%Y-%m-%d %H:%M}".removesuffix(" 00:00")]
    if bar.get("close") is not None:
        made = bar.get("reconstructed_close")
        lines.append(f"close {bar['close']:.6g}" + (f", reconstructed {made:.6g}" if made is not None else ""))
    if bar["score"] is not None:
        allowed = bar.get("threshold")
        lines.append(f"score {bar['score']:.4g}" + (f", threshold {allowed:.4g}" if allowed is not None else ""))
    parts = {name.removeprefix(CONTRIBUTION): bar[name] for name in contributions if (bar[name] or 0) > 0}
    total = sum(parts.values())
    if total > 0 and np.isfinite(total):
        most = sorted(parts.items(), key=lambda part: -part[1])[:3]
        lines.append(", ".join(f"{_escaped(name)} {value / total:.0%}" for name, value in most))
    return "<br>".join(lines)


def _escaped(text: str) -> str:
    """Escape a text for plotly's labels, which interpret a few tags and entities."""
    return html.escape(text, quote=False)
