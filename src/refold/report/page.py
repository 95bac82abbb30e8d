"""One self-contained HTML page about scored bars: it needs no network, and the reader can zoom into everything.

Python thins, counts and projects; page.js draws what it is given with plotly.js. Both the library and the data stand in
the page as gzip in base64, which browsers since 2023 unpack by themselves: a third of the size that they have as text.
"""

import base64
import gzip
import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from refold.report.projection import first_two_axes
from refold.runs.directory import write_atomically

MOST_POINTS = 160_000
"""Bars on the page, all assets together. More are thinned to the extremes of each bin and every flagged bar."""

AT_ONCE = 200_000
"""Bars, or scores, that are looked at together where they are read from a file."""

MOST_POINTS_OF_ONE = 20_000
"""Bars of one asset: what a browser draws without a pause."""

MOST_FLAGGED = 20_000
"""Flagged bars with their reasons; of more, those with the highest scores."""

MOST_EVENTS = 1_000
"""Rows of the table of events, highest scores first."""

MOST_LATENTS = 3_000
"""Points of the latent map: codes at even distances, and those of the highest scores."""

MOST_WINDOW_FEATURES = 8
"""Features drawn of a window: those with the largest errors in it."""

BINS = 80
"""Of the histograms."""

CONTRIBUTION = "contribution/"

_HERE = Path(__file__).parent


class WindowExample(NamedTuple):
    """A window and what the model makes of it.

    asset: its name. label: why it was chosen, such as "worst of test". timestamps: (T,) datetime64. truth,
    reconstruction: (T, F), in the same units; NaN at absent bars.
    """

    asset: str
    label: str
    timestamps: np.ndarray
    truth: np.ndarray
    reconstruction: np.ndarray


def write_page(
    path: str | os.PathLike,
    *,
    title: str,
    scores: pl.DataFrame | pl.LazyFrame,
    events: pl.DataFrame | None = None,
    split_scores: Mapping[str, np.ndarray | pl.LazyFrame] | None = None,
    feature_errors: Mapping[str, Mapping[str, float]] | None = None,
    windows: Sequence[WindowExample] | None = None,
    features: Sequence[str] | None = None,
    latents: pl.DataFrame | None = None,
    alarm_rates: Mapping[str, Mapping[str, float | None]] | None = None,
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
    facts: Mapping[str, str] | None = None,
    unit: str = "feature units",
) -> None:
    """Write the page, whole or not at all. A part whose data is not given, or empty, is left out.

    Args: path: of the HTML file.
        title: of the page; any text.
        scores: rows of scores.parquet: timestamp, asset, score, threshold, verdict; close, reconstructed_close and
            contribution/<feature> as far as there. A frame in any order; a lazy one, which is read some rows at a time,
            sorted by asset, then time.
        events: asset, start, end, peak, score, features ("a;b", most to blame first), kind.
        split_scores: part ("validation", "test", ...) -> its scores (N,), or a lazy frame with a column score, for the
            histogram; NaN is left out.
        feature_errors: part -> feature -> mean squared error, in training variances.
        windows: examples to look at; features: the names of their F columns.
        latents: timestamp, asset, score if there is one; every other column is a number of the code.
        alarm_rates: threshold -> column -> value: how many alarms each would give.
        baselines: caption of a table -> row -> column -> value: the model and what it has to beat.
        facts: name -> text, shown at the top beside what is counted here.
        unit: of the windows' values.
    """
    scan = scores.lazy() if isinstance(scores, pl.LazyFrame) else scores.sort("asset", "timestamp").lazy()
    zone = _time_zone(scan)
    events = None if events is None or events.height == 0 else _wall_clock(events, zone, "start", "end", "peak")
    series = _series(scan, events)
    payload = {
        "facts": {**_counts(scan, events), **(facts or {})},
        "zone": zone,
        "logarithmic": _is_skewed(scan),
        "assets": series,
        "events": None if events is None else _event_table(events),
        "histogram": _histogram(split_scores or {}, scan),
        "features": _feature_errors(feature_errors, scan),
        "windows": [_window(example, features) for example in windows or ()],
        "unit": unit,
        "latents": None if latents is None or latents.height == 0 else _latent_map(latents, zone),
        "alarms": [_table("", alarm_rates)] if alarm_rates else [],
        "baselines": [_table(caption, rows) for caption, rows in (baselines or {}).items()],
    }
    write_atomically(Path(path), assemble(title, payload))


# ---- the file -------------------------------------------------------------------------------------------------------


def assemble(title: str, payload: dict[str, Any], name: str = "page") -> str:
    """A self-contained page. Args: payload: what its script draws. name: of its template and of its script."""
    template = (_HERE / f"{name}.html").read_text(encoding="utf-8")
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": "".join((_HERE / script).read_text(encoding="utf-8") for script in ("common.js", f"{name}.js")),
        "data": _packed(text.encode()),
        "plotly": _plotly(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)  # one pass: a title may hold {{data}}


def _packed(raw: bytes) -> str:
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # half a second, for the page alone

    return _packed(get_plotlyjs().encode())


def _array(values: Any, dtype: str) -> dict[str, str]:
    """A typed array as plotly.js reads it. Args: dtype: "f4" or "f8"."""
    little_endian = np.asarray(values, dtype=f"<{dtype}")
    return {"dtype": dtype, "bdata": base64.b64encode(little_endian.tobytes()).decode()}


def _milliseconds(column: str) -> pl.Expr:
    """Timestamps as milliseconds since 1970, of the clock on the wall of their time zone."""
    return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.Float64).alias(column)


def _wall_clock(frame: pl.DataFrame | pl.LazyFrame, zone: str | None, *columns: str) -> pl.DataFrame | pl.LazyFrame:
    """Times of any zone as the clock of one zone shows them."""
    zoned = [name for name in columns if getattr(frame.collect_schema()[name], "time_zone", None)]
    return frame.with_columns(pl.col(name).dt.convert_time_zone(zone).dt.replace_time_zone(None) for name in zoned)


def _time_zone(scan: pl.LazyFrame) -> str | None:
    return getattr(scan.collect_schema()["timestamp"], "time_zone", None)


def _number(value: Any) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if value is not None and np.isfinite(value) else None


# ---- what is counted ------------------------------------------------------------------------------------------------


def _counts(scan: pl.LazyFrame, events: pl.DataFrame | None) -> dict[str, str]:
    """Facts that stand in the scores themselves."""
    seen = (
        scan.group_by("asset")
        .agg(
            pl.len().alias("bars"),
            pl.col("score").is_not_null().sum().alias("scored"),
            pl.col("verdict").sum().alias("flagged"),
            pl.col("timestamp").min().alias("start"),
            pl.col("timestamp").max().alias("end"),
        )
        .collect(engine="streaming")
    )
    if seen.height == 0:
        return {"bars": "none"}
    years = ((seen["end"] - seen["start"]) / timedelta(days=365.25)).cast(pl.Float64).sum()
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
    alarms = seen["flagged"].sum() if events is None else events.height
    if years > 0:
        counts["events per asset and year" if events is not None else "flagged per asset and year"] = (
            f"{alarms / years:.2f}"
        )
    return counts


def _histogram(split_scores: Mapping[str, np.ndarray | pl.LazyFrame], scan: pl.LazyFrame) -> dict[str, Any] | None:
    """Shares of the bars of each part in common bins, on a logarithmic axis where the scores allow it."""
    spans = [_span(values) for part in split_scores.values() for values in _some(part)]
    if not spans:
        return None
    edges = _edges(*np.min(spans, axis=0)[:2], np.max(spans, axis=0)[2])
    counts = {
        name: sum(np.histogram(np.clip(values, edges[0], None), edges)[0] for values in _some(part))
        for name, part in split_scores.items()
    }
    return {
        "logarithmic": bool(edges[0] > 0),
        "edges": _array(edges, "f8"),
        "threshold": _number(_level(scan)),
        "parts": {
            name: {"share": _array(count / count.sum(), "f8"), "count": int(count.sum())}
            for name, count in counts.items()
            if np.any(count)
        },
    }


def _some(scores: np.ndarray | pl.LazyFrame) -> Iterator[np.ndarray]:
    """The finite scores of a part, some at a time."""
    if isinstance(scores, pl.LazyFrame):
        parts = (rows["score"] for rows in scores.select("score").collect_batches(chunk_size=AT_ONCE))
    else:
        parts = [scores]
    for part in parts:
        values = np.asarray(part, dtype=np.float64)
        if np.isfinite(values).any():
            yield values[np.isfinite(values)]


def _span(values: np.ndarray) -> tuple[float, float, float]:
    """The lowest, the positive one that 0.1 % lie below, and the highest."""
    positive = values[values > 0]
    return values.min(), np.quantile(positive, 0.001) if len(positive) else np.inf, values.max()


def _level(scan: pl.LazyFrame) -> float | None:
    """The usual threshold."""
    return scan.select(pl.col("threshold").fill_nan(None).mean()).collect(engine="streaming").item()


def _edges(low: float, usual: float, high: float) -> np.ndarray:
    """Edges of bins that hold all values; logarithmic, from the usual ones on, where no value is below 0."""
    if low >= 0 and high > 0:
        low = usual
        edges = np.geomspace(low, high, BINS + 1) if low < high else np.array([low / 2, high * 2])
    else:
        edges = np.linspace(low, high, BINS + 1) if low < high else np.array([low - 0.5, high + 0.5])
    edges[-1] = max(edges[-1], high)  # geomspace may end below it by a rounding
    return edges


def _is_skewed(scan: pl.LazyFrame) -> bool:
    """Whether the highest score would press all others and the threshold flat on a linear axis."""
    score, level = pl.col("score").fill_nan(None), _level(scan)
    ends = scan.select(score.max().alias("top"), score.min().alias("least")).collect(engine="streaming")
    top, least = ends.row(0)
    return None not in (top, level, least) and least >= 0 and top > 20 * level


def _feature_errors(given: Mapping[str, Mapping[str, float]] | None, scan: pl.LazyFrame) -> dict[str, Any] | None:
    """Mean squared error of each feature by part, and its mean contribution to scores of flagged and other bars."""
    names = [name for name in scan.collect_schema().names() if name.startswith(CONTRIBUTION)]
    shares = None
    if names:
        means = scan.group_by("verdict").agg(pl.col(name).fill_nan(None).mean() for name in names)
        means = means.collect(engine="streaming")
        shares = {
            "flagged bars" if row["verdict"] else "other bars": [_number(row[name]) for name in names]
            for row in means.sort("verdict", nulls_last=True).iter_rows(named=True)
            if row["verdict"] is not None
        }
    if not given and not shares:
        return None
    errors = {part: {name: _number(value) for name, value in values.items()} for part, values in (given or {}).items()}
    return {"errors": errors, "names": [name.removeprefix(CONTRIBUTION) for name in names], "contributions": shares}


# ---- price and score of each asset ----------------------------------------------------------------------------------


def _series(scan: pl.LazyFrame, events: pl.DataFrame | None) -> dict[str, Any]:
    """Per asset, in order of name: its bars, thinned, and its flagged bars with their reasons.

    Args: scan: sorted by asset, then time.
    """
    schema = scan.collect_schema()
    lines = [name for name in ("close", "reconstructed_close", "score", "threshold") if name in schema]
    contributions = [name for name in schema.names() if name.startswith(CONTRIBUTION)]
    least = _least_flagged(scan)
    counts = scan.group_by("asset").len().collect(engine="streaming").sort("asset")
    scan = _wall_clock(scan, _time_zone(scan), "timestamp").with_columns(
        pl.col(lines).cast(pl.Float64).fill_nan(None),
        # what is not shown as flagged is drawn like any other bar
        (pl.col("verdict").fill_null(False) & (pl.col("score").fill_nan(None).fill_null(0) >= least)).alias("verdict"),
    )
    drawn, start = {}, 0
    for asset, count in counts.iter_rows():
        points, bars = min(MOST_POINTS_OF_ONE, max(400, MOST_POINTS // counts.height)), scan.slice(start, count)
        start += count
        if asset is None:
            continue
        kept, flagged, spacing = _thinned(bars, count, points)
        flagged = _with_event(flagged, None if events is None else events.filter(pl.col("asset") == asset))
        drawn[asset] = {
            "bars": count,
            "time": _array(kept.select(_milliseconds("timestamp")), "f8"),
            "lines": {name: _array(kept[name], "f4") for name in lines if kept[name].is_not_null().any()},
            "shown": kept.height,
            "spacing": spacing,
            "flagged": {
                "time": _array(flagged.select(_milliseconds("timestamp")), "f8"),
                "close": _array(flagged["close"], "f4") if "close" in flagged.columns else None,
                "score": _array(flagged["score"], "f4"),
                "kind": flagged["kind"].to_list(),
                "reason": [_reason(row, contributions) for row in flagged.iter_rows(named=True)],
            },
        }
    return drawn


def _thinned(bars: pl.LazyFrame, count: int, points: int) -> tuple[pl.DataFrame, pl.DataFrame, float | None]:
    """The bars of one asset to draw, those of them that are flagged, and the usual milliseconds between two bars."""
    kept, flagged, spacing = [], [], None
    for first in range(0, count, AT_ONCE):
        some = bars.slice(first, AT_ONCE).collect()
        flagged.append(some.filter("verdict"))
        kept.append(thin(some, max(4, points * some.height // count)))
        spacing = spacing or _number(some.select(_milliseconds("timestamp").diff().median()).item())
    return pl.concat(kept), pl.concat(flagged), spacing


def _least_flagged(scan: pl.LazyFrame) -> float:
    """The score from which flagged bars are shown: all of them, unless they are more than MOST_FLAGGED."""
    flagged = scan.filter(pl.col("verdict")).select(pl.col("score").fill_nan(None)).collect()["score"]
    return -np.inf if len(flagged) <= MOST_FLAGGED else flagged.top_k(MOST_FLAGGED).min()


def thin(bars: pl.DataFrame, points: int) -> pl.DataFrame:
    """About `points` of the bars of one asset, that draw the same picture: every flagged bar, the first, the last, and
    where price and score are lowest and highest in each bin of neighbours.

    Args: bars: in order of time, with score and verdict, perhaps close; no NaN. points: at least 4.
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
    """Flagged bars with the kind of the event that they are part of, null where there is none."""
    if events is None or events.height == 0 or flagged.height == 0:
        return flagged.with_columns(kind=pl.lit(None, pl.String))
    spans = events.select(pl.col("start").cast(flagged["timestamp"].dtype), "end", "kind").sort("start")
    joined = flagged.join_asof(spans, left_on="timestamp", right_on="start", strategy="backward", coalesce=False)
    inside = pl.col("timestamp") <= pl.col("end").cast(flagged["timestamp"].dtype)
    return joined.with_columns(kind=pl.when(inside).then("kind")).drop("start", "end")


def _reason(bar: Mapping[str, Any], contributions: Sequence[str]) -> str:
    """Why a bar is flagged, for its hover text: kind, prices, score and the features to blame."""
    when = bar["timestamp"]
    lines = [f"<b>{_escaped(bar['kind'] or 'flagged')}</b>  {when:%Y-%m-%d %H:%M}".removesuffix(" 00:00")]
    if bar.get("close") is not None:
        made = bar.get("reconstructed_close")
        lines.append(f"close {bar['close']:.6g}" + (f", reconstructed {made:.6g}" if made is not None else ""))
    if bar["score"] is not None:
        allowed = bar.get("threshold")
        lines.append(f"score {bar['score']:.4g}" + (f", threshold {allowed:.4g}" if allowed is not None else ""))
    parts = {name.removeprefix(CONTRIBUTION): bar[name] for name in contributions if (bar[name] or 0) > 0}
    whole = sum(parts.values())
    if whole > 0 and np.isfinite(whole):
        most = sorted(parts.items(), key=lambda part: -part[1])[:3]
        lines.append(", ".join(f"{_escaped(name)} {value / whole:.0%}" for name, value in most))
    return "<br>".join(lines)


def _escaped(text: str) -> str:
    """A text for plotly's labels, which read a few tags and entities."""
    return html.escape(text, quote=False)


# ---- events, windows, codes, baselines ------------------------------------------------------------------------------


def _event_table(events: pl.DataFrame) -> dict[str, Any]:
    """The highest-scoring events, and how many there are in all."""
    most = events.sort("score", descending=True, nulls_last=True).head(MOST_EVENTS)
    spans = most.select(_milliseconds(name) for name in ("start", "end", "peak"))
    return {
        "total": events.height,
        "asset": most["asset"].to_list(),
        "score": [_number(value) for value in most["score"]],
        "kind": most["kind"].to_list(),
        "features": most["features"].to_list(),
        **{name: spans[name].to_list() for name in spans.columns},
    }


def _window(example: WindowExample, names: Sequence[str] | None) -> dict[str, Any]:
    truth, made = (np.asarray(part, dtype=np.float64) for part in (example.truth, example.reconstruction))
    if names is None or len(names) != truth.shape[1]:
        raise ValueError(f"features has {0 if names is None else len(names)} names; windows have {truth.shape[1]}")
    squared = np.square(made - truth)
    present = np.isfinite(squared)
    errors = np.where(present, squared, 0).sum(0) / present.sum(0).clip(min=1)
    shown = sorted(np.argsort(-errors, kind="stable")[:MOST_WINDOW_FEATURES])
    times = example.timestamps.astype("datetime64[ms]").astype(np.int64)
    return {
        "asset": example.asset,
        "label": example.label,
        "time": _array(times, "f8"),
        "start": int(times[0]),
        "features": [names[n] for n in shown],
        "of": len(names),
        "errors": [_number(errors[n]) for n in shown],
        "truth": [_array(truth[:, n], "f4") for n in shown],
        "made": [_array(made[:, n], "f4") for n in shown],
    }


def _latent_map(latents: pl.DataFrame, zone: str | None) -> dict[str, Any]:
    """Codes on their first two principal axes: points at even distances, and those of the highest scores."""
    codes = latents.drop("timestamp", "asset", "score", strict=False).to_numpy()
    places, shares = first_two_axes(codes)
    chosen = np.linspace(0, latents.height - 1, min(MOST_LATENTS, latents.height)).astype(np.int64)
    if "score" in latents.columns and latents.height > MOST_LATENTS:
        strangest = latents["score"].fill_nan(None).fill_null(-np.inf).arg_sort(descending=True)[: MOST_LATENTS // 10]
        chosen = np.union1d(chosen, strangest.to_numpy())
    points = _wall_clock(latents[chosen], zone, "timestamp")
    scores = points["score"].fill_nan(None) if "score" in points.columns else None
    return {
        "total": latents.height,
        "shares": shares.tolist(),
        "x": _array(places[chosen, 0], "f4"),
        "y": _array(places[chosen, 1], "f4"),
        "time": _array(points.select(_milliseconds("timestamp")), "f8"),
        "asset": points["asset"].to_list(),
        "score": None if scores is None else [_number(value) for value in scores],
        # one far point would else take all colours for itself
        "brightest": None if scores is None else _number(scores.quantile(0.99)),
    }


def _table(caption: str, rows: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[_number(row.get(column)) for column in columns] for row in rows.values()]
    return {"caption": caption, "columns": columns, "rows": list(rows), "cells": cells}
