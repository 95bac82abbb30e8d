"""A second verdict on the same bars: named errors beside unusual bars, or the other way round, never in one ranking."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from refold.errors import ConfigError
from refold.library.judge import SCORES, Judge
from refold.library.scoring_result import Scoring
from refold.scoring.events import MODEL

BESIDE = "beside.parquet"
"""File of the second scores, beside those of the first."""


def with_beside(
    judge: Judge,
    scoring: Scoring,
    name: str,
    *,
    bars: Any = None,
    settings: Mapping[str, Any] | None = None,
    decisions: Any = None,
) -> Scoring:
    """Score the same bars by another score with a threshold of its own, and put its events after the first ones.

    The second detector is fitted to the run's own data, which takes as long as `score=NAME` does.

    Args:
        judge: what scored first.
        scoring: its result.
        name: option of conf/score whose verdict answers the other question.
        bars: that the judge got.
        settings: that the judge got; those of its score are not taken over.
        decisions: that the judge got.

    Returns:
        The scoring with the events of both and the facts of the second under "beside". Its scores stand in BESIDE where
        the first ones are written.

    Raises:
        ConfigError: there is no such score, or it answers the same question.
    """
    others = {key: value for key, value in (settings or {}).items() if key.partition(".")[0] != "score"}
    folder = judge.folder and judge.folder / "beside"
    chosen = {**others, "score": name}
    second = Judge(
        judge.run, bars, chosen, decisions=decisions, folder=folder, progress=judge.progress, on_ray=judge.on_ray
    )
    question, first = second.detector.score_function.question, scoring.detector.score_function
    if question == first.question:
        raise ConfigError(
            f"beside is {name!r}, whose verdict is {question} as that of {type(first).__name__} is; it must be a score "
            f"of the other verdict: {'planted' if question == 'unusual' else 'such as student'}"
        )
    if folder is not None:
        folder.mkdir()
    found = second.score()
    if folder is not None and judge.folder is not None:
        (folder / SCORES).rename(judge.folder / BESIDE)
        folder.rmdir()
    detector, own = second.detector, found.events.filter(found_by=MODEL)
    kept = ("flagged_bars", "alarms", "kinds", "dismissed_bars")
    facts = {
        "verdict": question,
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "level": detector.validation["level"],
        **{key: value for key, value in found.facts.items() if key in kept or key.startswith("alarms_per_")},
    }
    return scoring._replace(
        events=pl.concat([scoring.events, own], how="diagonal_relaxed"),
        facts={**scoring.facts, "beside": facts},
        beside=facts,
    )


def beside_words(facts: Mapping[str, Any]) -> str:
    """Say what the second verdict found.

    Args:
        facts: of the second verdict, as `with_beside` returns them under "beside".
    """
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items()) or "none"
    return (
        f"beside, {facts['verdict']}: {facts['score']}, {facts['threshold']}, level {facts['level']:.4g}: "
        f"{facts['flagged_bars']:,} flagged in {facts['alarms']:,} events: {kinds}"
    )
