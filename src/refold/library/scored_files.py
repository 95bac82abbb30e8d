"""The files of a scoring: scores, events, findings, facts, and the report."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl

from refold.library.scoring_result import Scoring
from refold.library.tally import HERE
from refold.runs.directory import FINDINGS
from refold.scoring.drift import drift_words
from refold.scoring.protocols import TrainedRun
from refold.scoring.scored import alarm_unit, alarm_words, validation_rates

SCORED_FILES = ("scores.parquet", "events.csv", FINDINGS, "scoring.json", "report.html")

_FORMULA = r"^[=+\-@\t\r]"


def write_scored_files(
    run: TrainedRun, scoring: Scoring, folder: Path, repairs: pl.DataFrame | None = None
) -> dict[str, Any]:
    """Write everything beside scores.parquet, which is there already.

    Args:
        run: the run whose model scored.
        scoring: the scored bars, with evidence.
        folder: folder of the scoring.
        repairs: proposed for the events, for the report.

    Returns:
        What scoring.json says.
    """
    escape_formulas(scoring.events).write_csv(folder / "events.csv")
    escape_formulas(scoring.findings).write_csv(folder / FINDINGS)
    facts = {**describe_scoring(run, scoring), **scoring.facts, "thresholds": scoring.thresholds}
    (folder / "scoring.json").write_text(json.dumps(facts, indent=2) + "\n")
    write_report(run, scoring, folder / "report.html", repairs)
    return facts


def describe_scoring(run: TrainedRun, scoring: Scoring) -> dict[str, Any]:
    """Return the run's id, and by what and how strictly its bars are judged."""
    detector = scoring.detector
    return {
        "run": run.config.run.id,
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "alignment": detector.alignment,
        "level": detector.validation["level"],
        **({"levels": detector.validation["levels"]} if detector.validation["levels"] else {}),
        "bar_seconds": detector.validation["bar_seconds"],
        "thresholds_per": f"asset and {alarm_unit(detector.validation['bar_seconds'])}",
        **validation_rates(detector.validation),
    }


def escape_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """Put an apostrophe before texts that a spreadsheet would take for a formula: names come from the user's data."""
    texts = [name for name, dtype in table.schema.items() if dtype == pl.String or isinstance(dtype, pl.Categorical)]
    return table.with_columns(pl.col(name).cast(pl.String).str.replace(_FORMULA, "'$0") for name in texts)


def write_report(
    run: TrainedRun, scoring: Scoring, path: str | os.PathLike, repairs: pl.DataFrame | None = None
) -> None:
    """Write the page about scored bars.

    Args:
        run: the run whose model scored.
        scoring: the scored bars, with evidence.
        path: path of the HTML file.
        repairs: proposed for the events.
    """
    from refold.report.page import write_page
    from refold.report.summary import LABELLED, labelled_rows, tables

    assert scoring.evidence is not None
    facts, shown, scores = describe_scoring(run, scoring), scoring.evidence, scoring.scores
    values = {"validation": scoring.detector.validation["scores"].numpy(), HERE: scores}
    pages: pl.DataFrame | pl.LazyFrame = scores
    if nameless := scoring.facts["without_score"].get("missing_timestamp", 0):  # the last rows: nothing to draw
        pages = scores.head(scoring.facts["bars"] - nameless)
    if "part" in scores.collect_schema():  # of the run's own, which fit into memory
        pages = scores.collect()
        values = {"validation": values["validation"], "test": pages.filter(part="test").lazy()}
    numbers = tables(run.result) if run.result else {}
    if measured := scoring.facts.get("detection"):
        numbers = {f"{LABELLED}: scored bars": labelled_rows(measured), **numbers}
    write_page(
        path,
        title=f"{facts['run']}: scored bars",
        scores=pages,
        events=scoring.events,
        split_scores=values,
        feature_errors=shown.feature_errors,
        windows=shown.windows,
        features=scoring.detector.features,
        latents=shown.latents,
        alarm_rates={f"alarms per {facts['thresholds_per']}": scoring.thresholds} if scoring.thresholds else None,
        baselines=numbers or None,
        drift=scoring.drift,
        scorers=_scorers(scoring),
        repairs=repairs,
        run=facts["run"],
        decisions=[] if scoring.decisions is None else [one.written for one in scoring.decisions.decisions],
        facts={
            "score": f"{facts['score']}, {facts['alignment']} of windows",
            "threshold": f"{facts['threshold']}, {facts['level']:.4g}{', or of its own asset' * ('levels' in facts)}",
            "on validation": alarm_words(facts, facts["bar_seconds"], "val/"),
            "here": alarm_words(scoring.facts, facts["bar_seconds"]),
            **({other["verdict"]: f"{other['alarms']:,} events beside"} if (other := scoring.beside) else {}),
            **({"drift": drift_words(scoring.facts["drift"])} if "drift" in scoring.facts else {}),
            **({"without scores": ", ".join(lost)} if (lost := scoring.facts.get("refused_assets")) else {}),
        },
    )


def _scorers(scoring: Scoring) -> dict[str, str]:
    """Return verdict -> the score and threshold that judged, the scoring's own first."""
    detector = scoring.detector
    own = f"{type(detector.score_function).__name__}, {type(detector.threshold).__name__}"
    scorers = {str(detector.score_function.question): own}
    if (other := scoring.beside) is not None:
        scorers[other["verdict"]] = f"{other['score']}, {other['threshold']}"
    return scorers
