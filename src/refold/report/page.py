"""One self-contained HTML page about scored bars: it needs no network, and the reader can zoom into everything.

Python thins, counts and projects; page.js draws the result with plotly.js.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from refold.report.asset_series import asset_series
from refold.report.distributions import count_bars, count_findings, feature_section, is_skewed, score_histogram
from refold.report.html_page import assemble_page, time_zone, wall_clock
from refold.report.proposals import describe_repairs
from refold.report.sections import (
    WindowExample,
    drift_table,
    event_lists,
    latent_points,
    page_table,
    split_events,
    window_lines,
)
from refold.runs.directory import write_atomically
from refold.scoring.moments import moment_texts


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    scores: pl.DataFrame | pl.LazyFrame,
    events: pl.DataFrame | None = None,
    split_scores: Mapping[str, np.ndarray | pl.LazyFrame] | None = None,
    feature_errors: Mapping[str, Mapping[str, float]] | None = None,
    windows: Sequence[WindowExample] | None = None,
    features: Sequence[str] | None = None,
    latents: pl.DataFrame | None = None,
    alarm_rates: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
    baselines: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None = None,
    drift: pl.DataFrame | None = None,
    facts: Mapping[str, str] | None = None,
    unit: str = "feature units",
    scorers: Mapping[str, str] | None = None,
    repairs: pl.DataFrame | None = None,
    run: str | None = None,
    decisions: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write the page about scored bars; a section whose data is not given, or is empty, is left out.

    The file is complete or unchanged: an error leaves an earlier page as it was.

    Args:
        path: path of the HTML file.
        title: title of the page; any text.
        scores: rows of scores.parquet: timestamp, asset, score, threshold, verdict; close, reconstructed_close and
            contribution/<feature> as far as there. A frame may be in any order. A lazy frame must be sorted by asset,
            then time; it is read some rows at a time.
        events: asset, start, end, peak, score, features ("a;b", most to blame first), kind; once_in and guess if they
            are known; with the columns found_by, bars and done those that found_by calls checks are drawn apart, and
            are not counted as alarms. The column verdict says whether an event is named or unusual, the default.
        split_scores: part ("validation", "test", ...) -> its scores (N,), or a lazy frame with a column score, for the
            histogram; NaN is left out.
        feature_errors: part -> feature -> mean squared error, in training variances.
        windows: examples to look at.
        features: the names of the F columns of the windows.
        latents: timestamp, asset, score if there is one; every other column is a number of the code.
        alarm_rates: caption of a table -> threshold -> column -> value: how many alarms each would give.
        baselines: caption of a table -> row -> column -> value: the model and the baselines that it has to beat.
        drift: rows of `refold.scoring.drift.DriftTest.table`: whether the bars are still like those of validation.
        facts: name -> text, shown at the top beside the counts.
        unit: unit of the windows' values, for the axis.
        scorers: verdict, named or unusual -> what judged; the first one made the scores.
        repairs: proposed for the events, as `refold.scoring.repair.repair` returns them.
        run: id of the run whose events a reader may decide; None: there are no buttons.
        decisions: earlier decisions about its events, as they stand in a decisions file.

    Raises:
        RefoldError: the file cannot be written.
        ValueError: features do not name the columns of the windows.
    """
    scan = scores.lazy() if isinstance(scores, pl.LazyFrame) else scores.sort("asset", "timestamp").lazy()
    zone, scorers = time_zone(scan), scorers or {"unusual": ""}
    events, repairs = _prepared(events, repairs, zone)
    parts = split_events(events)
    own, other = next(iter(scorers)), next(iter(list(scorers)[1:]), None)
    series = asset_series(scan, parts.get(own), parts.get("checks"), parts.get(other or ""), repairs)
    payload = {
        "facts": {**count_bars(scan, parts.get(own)), **count_findings(parts.get("checks")), **(facts or {})},
        "zone": zone,
        "logarithmic": is_skewed(scan),
        "assets": series,
        "events": event_lists(parts, scorers),
        "beside": f"{other}: {scorers[other]}" if other else None,
        "run": run,
        "decisions": list(decisions),
        "histogram": score_histogram(split_scores or {}, scan),
        "features": feature_section(feature_errors, scan),
        "windows": [window_lines(example, features) for example in windows or ()],
        "unit": unit,
        "latents": None if latents is None or latents.height == 0 else latent_points(latents, zone),
        "alarms": [page_table(caption, rows) for caption, rows in (alarm_rates or {}).items()],
        "drift": None if drift is None else drift_table(drift),
        "baselines": [page_table(caption, rows) for caption, rows in (baselines or {}).items()],
    }
    write_atomically(Path(path), assemble_page(title, payload))


def _prepared(
    events: pl.DataFrame | None, repairs: pl.DataFrame | None, zone: str | None
) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """Give events the texts of a decisions file and of their repairs, and both tables times of the wall clock."""
    if events is None or events.height == 0:
        return None, None
    texts = {"from": moment_texts(events["start"]), "to": moment_texts(events["end"])}
    events = wall_clock(events, zone, "start", "end", "peak").with_columns(
        pl.Series(name, values, dtype=pl.String) for name, values in texts.items()
    )
    if repairs is None or repairs.height == 0:
        return events, None
    repairs = wall_clock(repairs, zone, "timestamp", "event_start")
    return events.with_columns(pl.Series("repair", describe_repairs(events, repairs), dtype=pl.String)), repairs
