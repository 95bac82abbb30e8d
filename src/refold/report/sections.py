"""Sections of the page that draw what is given to them: events, windows, codes, tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from refold.report.html_page import json_number, milliseconds, typed_array, wall_clock
from refold.report.projection import first_two_axes

MOST_EVENTS = 1_000
"""Rows of each list of events, highest scores first."""

MOST_DRIFTING = 200
"""Rows of the table of drift: all assets together, then the assets that look most changed."""

MOST_LATENTS = 3_000
"""Points of the latent map: codes at even distances, and those of the highest scores."""

MOST_WINDOW_FEATURES = 8
"""Features drawn of a window: those with the largest errors in it."""


class WindowExample(NamedTuple):
    """A window and its reconstruction.

    Attributes:
        asset: its name.
        label: why it was chosen, such as "worst of test".
        timestamps: (T,) datetime64.
        truth: (T, F); NaN at absent bars.
        reconstruction: (T, F), in the units of truth; NaN at absent bars.
    """

    asset: str
    label: str
    timestamps: np.ndarray
    truth: np.ndarray
    reconstruction: np.ndarray


def split_events(events: pl.DataFrame | None) -> dict[str, pl.DataFrame]:
    """Divide events by the verdict that raised them; what the checks found stands apart.

    Args:
        events: asset, start, end, peak, score, features, kind; perhaps verdict (named or unusual) and found_by; None if
            there are none.

    Returns:
        "named" and "unusual" -> its events, and "checks" where the events say what found them; empty without events.
    """
    if events is None:
        return {}
    found = {}
    if "found_by" in events.columns:
        found["checks"] = events.filter(found_by="checks")
        events = events.filter(pl.col("found_by") != "checks")
    if "verdict" not in events.columns:
        return {"unusual": events, **found}
    return {"named": events.filter(verdict="named"), "unusual": events.filter(verdict="unusual"), **found}


def event_lists(parts: Mapping[str, pl.DataFrame], scorers: Mapping[str, str]) -> dict[str, dict[str, Any]] | None:
    """Return the lists of events: of each verdict those with the highest scores, of the checks the first.

    Args:
        parts: as `split_events` returns them, with from and to (texts of a decisions file), perhaps repair (a text).
        scorers: verdict -> what judged.

    Returns:
        Verdict, or "checks" -> columns and how many there are in all; None without any event.
    """
    return {name: _event_list(part, scorers.get(name, "")) for name, part in parts.items() if part.height} or None


def _event_list(events: pl.DataFrame, by: str) -> dict[str, Any]:
    """Return the columns of some events of one verdict."""
    most = events.sort("score", descending=True, nulls_last=True, maintain_order=True).head(MOST_EVENTS)
    spans = most.select(milliseconds(name) for name in ("start", "end", "peak"))
    texts = ("asset", "kind", "guess", "features", "found_by", "bars", "done", "once_in", "from", "to", "repair")
    numbers = ("score", "probability")
    return {
        "total": events.height,
        "by": by,
        **{name: most[name].to_list() for name in texts if name in most.columns},
        **{name: [json_number(value) for value in most[name]] for name in numbers if name in most.columns},
        **{name: spans[name].to_list() for name in spans.columns},
    }


def window_lines(example: WindowExample, names: Sequence[str] | None) -> dict[str, Any]:
    """Return truth and reconstruction of the features of a window that have the largest errors in it.

    Args:
        example: the window.
        names: names of its F features.

    Raises:
        ValueError: the names are not as many as the features.
    """
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
        "time": typed_array(times, "f8"),
        "start": int(times[0]),
        "features": [names[n] for n in shown],
        "of": len(names),
        "errors": [json_number(errors[n]) for n in shown],
        "truth": [typed_array(truth[:, n], "f4") for n in shown],
        "made": [typed_array(made[:, n], "f4") for n in shown],
    }


def latent_points(latents: pl.DataFrame, zone: str | None) -> dict[str, Any]:
    """Return codes on their first two principal axes: some at even distances, and those of the highest scores.

    Args:
        latents: timestamp, asset, score if there is one; every other column is a number of the code.
        zone: time zone of the page; None if its times have none.
    """
    codes = latents.drop("timestamp", "asset", "score", strict=False).to_numpy()
    places, shares = first_two_axes(codes)
    chosen = np.linspace(0, latents.height - 1, min(MOST_LATENTS, latents.height)).astype(np.int64)
    if "score" in latents.columns and latents.height > MOST_LATENTS:
        strangest = latents["score"].fill_nan(None).fill_null(-np.inf).arg_sort(descending=True)[: MOST_LATENTS // 10]
        chosen = np.union1d(chosen, strangest.to_numpy())
    points = wall_clock(latents[chosen], zone, "timestamp")
    scores = points["score"].fill_nan(None) if "score" in points.columns else None
    return {
        "total": latents.height,
        "shares": shares.tolist(),
        "x": typed_array(places[chosen, 0], "f4"),
        "y": typed_array(places[chosen, 1], "f4"),
        "time": typed_array(points.select(milliseconds("timestamp")), "f8"),
        "asset": points["asset"].to_list(),
        "score": None if scores is None else [json_number(value) for value in scores],
        # one far point would else take all colours for itself
        "brightest": None if scores is None else json_number(scores.quantile(0.99)),
    }


def drift_table(drift: pl.DataFrame) -> dict[str, Any]:
    """Return the rows of the table of drift: all assets together first, then the assets that look most changed.

    Args:
        drift: asset, state, since, moved, once_in_years, score_rank; the first row is of all assets together.
    """
    shown = pl.concat([drift[:1], drift[1:].sort("once_in_years", descending=True)]).head(MOST_DRIFTING)
    columns = ["asset", "state", "since", "what moved most", "once in years", "mean rank of scores"]
    dates = shown.with_columns(pl.col("since").cast(pl.String).fill_null(""), pl.col("moved").fill_null(""))
    rows = [(*texts, json_number(years), json_number(rank)) for *texts, years, rank in dates.iter_rows()]
    return {"columns": columns, "rows": rows, "total": drift.height}


def page_table(caption: str, rows: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Return a table of numbers, with an empty cell where a row lacks a column.

    Args:
        caption: caption of the table.
        rows: row -> column -> value.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[json_number(row.get(column)) for column in columns] for row in rows.values()]
    return {"caption": caption, "columns": columns, "rows": list(rows), "cells": cells}
