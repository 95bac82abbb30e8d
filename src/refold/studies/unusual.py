"""Measure which part of the model finds bars that are unlike their history; five seeds.

    python -m refold.studies.unusual docs/unusual.md

The bars, the planted errors and the metrics are those of `experiment=scorers`; no scorer is shown an error. The
tables go into the page, between its marks.
"""

import io
import sys
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from refold.config.build import Parts, build_data, build_detector
from refold.config.compose import compose_settings
from refold.data import WindowDataModule
from refold.report.summary import PLANTED
from refold.scoring.baselines import PCA, Blank, Components, NoModel
from refold.scoring.detector import Detector
from refold.scoring.protocols import Scorer
from refold.scoring.scores import FeatureScore, Mahalanobis, StudentScore
from refold.studies.pages import fill_page
from refold.studies.scorers import CompareScorers, part_bars
from refold.studies.scorers_table import errors_frame, metric_table

FEATURES = (
    "overnight_return", "intraday_return", "high_return", "low_return", "relative_volume_20",
    "log_range", "upper_shadow", "lower_shadow",
)  # fmt: skip
"""Prices of a bar against the bar before, and what feeds do to a bar."""

SEEDS = range(5)
_WIDTH = 128
_CODE_SIZE = 16


def unusual_scorers(detector: Detector, data: WindowDataModule, seed: int) -> dict[str, Scorer]:
    """Return name -> scorer, not fitted, the plainest first.

    Args:
        detector: with `score=cloze`.
        data: set up.
        seed: of PCA.
    """
    blank, components = Blank(), Components(PCA(_CODE_SIZE, seed).fit(data.train_windows), data.train_windows)
    return {
        "no model: asinh(z)^2": NoModel(data.recipe.entries or ()),
        "no model, mahalanobis": detector.around(blank).judging_by(Mahalanobis()),
        "no model, student": detector.around(blank).judging_by(FeatureScore()),
        f"PCA {_CODE_SIZE}, student": detector.around(components).judging_by(StudentScore()),
        "cloze": detector.around(blank),
    }


def measure(seed: int) -> dict[str, Any]:
    """Measure all scorers for a seed of weights and errors.

    Returns:
        What `CompareScorers.measure` returns, and "seed".
    """
    features = f"data.features=[{','.join(FEATURES)}]"
    cfg = compose_settings(["experiment=scorers", features, "score=cloze", f"seed={seed}", "evaluation.natural=null"])
    data, parts = build_data(cfg), Parts(cfg)
    data.setup()
    bars = part_bars(data.source.load(), data.recipe)
    assert data.scaler is not None
    assert isinstance(parts.evaluation, CompareScorers)
    detector = build_detector(cfg, cast(Any, Blank()), data.recipe, data.scaler, data.feature_names, parts)
    scorers = unusual_scorers(detector, data, seed)
    found = parts.evaluation.measure(bars, scorers, data.recipe.checks, warm_up=data.gap_bars, seed=seed)
    return {"seed": seed, **found}


def tell(measured: list[dict[str, Any]]) -> str:
    """Return the tables of some seeds as text."""
    text = io.StringIO()
    console = Console(width=_WIDTH, highlight=False, file=text)
    rows = errors_frame(measured)
    for metric, title in PLANTED.items():
        console.print(f"{title}; {len(measured)} seeds, mean and standard deviation")
        console.print(metric_table(rows, metric))
    return text.getvalue()


if __name__ == "__main__":
    fill_page(Path(sys.argv[1]), tell([measure(seed) for seed in SEEDS]))
