"""The end of a run whose bars have labels: model and baselines measured against them, on the same bars.

Nothing is fitted to a label. Scores and thresholds are fitted as without labels: to the training part, and to the
scores of the validation part.
"""

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import polars as pl

from refold.data import Series, WindowDataModule
from refold.data.feature_table import rows_of
from refold.data.windows.split import Part
from refold.errors import ConfigError
from refold.library.fitting import fit_to_data
from refold.scoring.baselines import PCA, Chance, Components, Forest, NoModel, RobustZ
from refold.scoring.detector import Detector
from refold.scoring.labelled import (
    MODEL,
    LabelledBars,
    detection_metrics,
    label_counts,
    list_false_alarms,
    why_missing,
)
from refold.scoring.scored import Scores, timed_scores

DETECTION = "/detection/"
"""Middle of the names of metrics that need labels, as in test/detection/auroc."""

PARTS = {"val": "the validation part", "test": "the test part"}

Verdicts = tuple[np.ndarray, np.ndarray]
"""(N,) scores, NaN where there is none, and (N,) verdicts."""


class RowScorer(Protocol):
    """A scorer of single bars by their features."""

    def fit_rows(self, rows: np.ndarray) -> Self:
        """Learn from training rows of features (N, F)."""
        ...

    def score_rows(self, rows: np.ndarray) -> np.ndarray:
        """Score rows of features (N, F): (N,) float64, larger is stranger."""
        ...


class Detection(NamedTuple):
    """Model and baselines against the labels of validation and test.

    Attributes:
        metrics: `split/detection/quantity` of the model; NaN where there is none.
        parts: entries of result.json: part -> counts of labels, scorer -> metrics, and false alarms of the model.
        reasons: name of a metric -> why it may have no value.
    """

    metrics: dict[str, float]
    parts: dict[str, Any]
    reasons: dict[str, str]


def measure_detection(
    detector: Detector, pca: PCA, data: WindowDataModule, assets: Sequence[str], test: Scores, seed: int
) -> Detection | None:
    """Measure model and baselines against the labels of the data, on the bars of validation and test.

    Args:
        detector: fitted.
        pca: fitted, with as many components as the model's code has numbers.
        data: the data module of the run, set up.
        assets: names of the assets that `Scores.asset` numbers.
        test: the model's scores of the test part.
        seed: seed of the forest and of the random scores, at least 0.

    Returns:
        What was measured; None if the data has no labels.
    """
    series = data.train_windows.series
    if series.label is None:
        return None
    label = series.label.numpy().T.reshape(-1).astype(bool)
    own: dict[str, Scores] = {"val": detector.score_series(series, data.segments("val")), "test": test}
    names: list[Part] = ["val", "test"]
    judged = {MODEL: {part: (own[part].score, _flag(detector, own[part])) for part in names}}
    judged |= {name: _same_bars(made, own) for name, made in _baselines(detector, pca, data, own, seed).items()}
    times = pl.Series(test.times).cast(series.time_dtype)
    train = rows_of({"train": data.segments("train")})
    metrics, reasons = {}, {}
    learnt = series.label[train]
    parts: dict[str, Any] = {"train": {"bars": learnt.numel(), "anomalous_bars": int(learnt.sum())}}
    for part in names:
        inside = np.zeros(len(series.times), dtype=bool)
        inside[rows_of({"test": data.segments(part)})] = True
        known = label & np.tile(inside, len(label) // len(inside))
        bars = {name: LabelledBars(*made[part], known, own[part].asset) for name, made in judged.items()}
        measured = {name: detection_metrics(one) for name, one in bars.items()}
        metrics |= {f"{part}{DETECTION}{name}": value for name, value in measured[MODEL].items()}
        reasons |= {f"{part}{DETECTION}{name}": why for name, why in why_missing(bars[MODEL], PARTS[part]).items()}
        parts[part] = {
            **label_counts(bars[MODEL]),
            "scorers": {name: _without_nan(row) for name, row in measured.items()},
            "listed_false_alarms": list_false_alarms(bars[MODEL], times, assets),
        }
    return Detection(metrics, parts, reasons)


def _without_nan(row: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN by None: JSON has none."""
    return {name: None if np.isnan(value) else value for name, value in row.items()}


def _flag(detector: Detector, scored: Scores) -> np.ndarray:
    return detector.flag(scored)[1]


def _same_bars(made: Mapping[str, Verdicts], own: Mapping[str, Scores]) -> dict[str, Verdicts]:
    """Take the scores and verdicts of a baseline away where the model has no score."""
    kept: dict[str, Verdicts] = {}
    for part, (score, flagged) in made.items():
        there = ~np.isnan(own[part].score)
        kept[part] = np.where(there, score, np.nan), flagged & there
    return kept


def _baselines(
    detector: Detector, pca: PCA, data: WindowDataModule, own: Mapping[str, Scores], seed: int
) -> dict[str, dict[str, Verdicts]]:
    """Fit the baselines, and judge the bars of validation and test by them."""
    series = data.train_windows.series
    segments = {part: data.segments(part) for part in ("train", "val", "test")}
    components = detector.around(Components(pca, data.train_windows))
    scored = {}
    try:
        fit_to_data(components, data)
        scored = {part: components.score_series(series, segments[part]) for part in own}
        flags = {part: (made.score, _flag(components, made)) for part, made in scored.items()}
    except ConfigError:  # its scores do not suit the threshold
        flags = {part: (np.full(len(one.score), np.nan), np.zeros(len(one.score), bool)) for part, one in own.items()}
    judged = {f"PCA, {components.autoencoder.code_size} components": flags}
    rows = bar_rows(series, detector)
    scorers: dict[str, RowScorer] = {
        "isolation forest": Forest(detector.recipe.entries or (), seed),
        "robust z": RobustZ(),
        "no model: asinh(z)^2": NoModel(detector.recipe.entries or ()),
        "random": Chance(seed),
    }
    train = np.zeros(len(series.times), dtype=bool)
    train[rows_of({"train": segments["train"]})] = True
    train = np.tile(train, len(rows) // len(train))
    for name, scorer in scorers.items():
        scorer.fit_rows(rows[train])
        scores = {part: _scores_of(scorer, rows, ~np.isnan(one.score)) for part, one in own.items()}
        judged[name] = _thresholded(detector, scores, own["val"], series)
    judged["flag everything"] = {
        part: (np.where(np.isnan(one.score), np.nan, 1.0), ~np.isnan(one.score)) for part, one in own.items()
    }
    return judged


def bar_rows(series: Series, detector: Detector) -> np.ndarray:
    """Return the scaled features of single bars, asset after asset as `Scores` has them.

    Args:
        series: a series of R rows.
        detector: says how many features an asset has.

    Returns:
        (N, F) float32; NaN for an absent bar.
    """
    values = series.values.cpu().numpy()
    absent = None if series.present is None else ~series.present.cpu().numpy()
    if absent is not None:
        values = np.where(absent[:, None], np.float32(np.nan), values)
    if detector.recipe.layout != "panel":
        return values
    R, F = len(values), len(detector.features)
    rows = values.reshape(R, -1, F).transpose(1, 0, 2).reshape(-1, F)
    return np.where((rows == 0).all(axis=1, keepdims=True), np.float32(np.nan), rows)


def _scores_of(scorer: RowScorer, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Score the chosen rows; NaN elsewhere."""
    scores = np.full(len(rows), np.nan)
    scores[chosen] = scorer.score_rows(rows[chosen])
    return scores


def _thresholded(
    detector: Detector, scores: Mapping[str, np.ndarray], val: Scores, series: Series
) -> dict[str, Verdicts]:
    """Fit the run's threshold to the validation scores of a baseline, and flag its bars."""
    judge = copy(detector)
    judge.threshold = deepcopy(detector.threshold)
    try:
        judge.threshold.fit_assets(timed_scores(val, series.time_dtype)._replace(scores=scores["val"]))
    except ConfigError:  # its scores do not suit the threshold: nothing is flagged
        return {part: (score, np.zeros(len(score), dtype=bool)) for part, score in scores.items()}
    return {part: (score, judge.flag(replace(val, score=score))[1]) for part, score in scores.items()}
