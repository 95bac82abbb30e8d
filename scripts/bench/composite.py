"""A second decoder that predicts: what it does to the reconstruction, beside plain forecasts, and for planted errors.

    python scripts/bench composite                      # five seeds of each kind, half an hour on a free core
    python scripts/bench composite learn --seeds 1      # one of both tables

Each model reads the embedded stocks with decoder=repeat, so that teacher forcing changes the predictor alone. The
models are measured with the weights of the last epoch, running free, all on the same windows.

learn: R2 of validation. planted: average precision on errors planted into the test part, as `experiment=scorers`
plants and measures them; the scores are fitted on clean training and validation bars.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from refold.config.build import Parts, build_data, build_detector, build_module
from refold.config.compose import compose_settings
from refold.data import WindowDataModule
from refold.library.prediction_baselines import measure_prediction_baselines
from refold.models import Autoencoder
from refold.scoring.baselines import PCA, Components, NoModel
from refold.scoring.protocols import Scorer
from refold.scoring.rules import RobustReturn
from refold.scoring.scores import CompositeScore, Mahalanobis, PredictionScore, StudentScore
from refold.studies.scorers import ALL, CompareScorers, part_bars
from scripts.bench.quiet import quiet

HORIZON = 5

ALWAYS = ["teacher_forcing=constant", "teacher_forcing.schedule.ratio=1.0"]
KINDS = {
    "none": ["predictor=none"],
    "repeat": ["predictor=repeat"],
    "autoregressive, free": ["predictor=autoregressive", "teacher_forcing=none"],
    "autoregressive, linear": ["predictor=autoregressive", "teacher_forcing=linear"],
    "autoregressive, always the truth": ["predictor=autoregressive", *ALWAYS],
    "conditional, free": ["predictor=conditional", "teacher_forcing=none"],
    "conditional, linear": ["predictor=conditional", "teacher_forcing=linear"],
    "conditional, always the truth": ["predictor=conditional", *ALWAYS],
}
"""Predictor and teacher forcing -> settings."""

BASELINES = {"last_value": "last value", "mean": "mean", "ridge": "ridge on the window"}

SCORES = {
    "none": {"mahalanobis": Mahalanobis, "student": StudentScore},
    "repeat": {"student": StudentScore, "prediction": PredictionScore, "composite": CompositeScore},
}
"""Predictor -> scores that its model is judged with."""

TRAINER: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "gradient_clip_val": 1.0,
}  # fmt: skip


def read(stride: int, *settings: str) -> WindowDataModule:
    """Return windows with the bars after them, which a model without a predictor does not look at."""
    chosen = ["predictor=repeat", f"predictor.horizon={HORIZON}", f"data.stride={stride}", *settings]
    data = build_data(compose_settings(chosen))
    data.setup()
    return data


def trained(kind: str, seed: int, epochs: int, data: WindowDataModule) -> tuple[Autoencoder, dict[str, float]]:
    """Train a model, and return it with its metrics on validation.

    Args:
        kind: of KINDS.
        seed: of weights, order, dropout and coins.
        epochs: of the training.
        data: set up.
    """
    data.seed = seed
    cfg = compose_settings([*KINDS[kind], f"seed={seed}"])
    L.seed_everything(seed, verbose=False)
    module = build_module(cfg, data.num_features)
    trainer = L.Trainer(**TRAINER, max_epochs=epochs, check_val_every_n_epoch=epochs)
    trainer.fit(module, data)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return module.autoencoder, found


class Known:
    """The file of measurements, one line of JSON for each model; a measurement that has a line is not repeated.

    Args:
        log: the file, or None.
    """

    def __init__(self, log: Path | None) -> None:
        self.log = log
        lines = log.read_text().splitlines() if log and log.exists() else []
        self.found = {tuple(line["key"]): line["found"] for line in map(json.loads, lines)}

    def get(self, key: tuple, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what is known under a key, or measure it without a word."""
        if key not in self.found:
            with quiet():
                self.found[key] = measure()
            if self.log:
                with self.log.open("a") as file:
                    file.write(json.dumps({"key": key, "found": self.found[key]}) + "\n")
        return self.found[key]


def report(benches: list[str], seeds: int, epochs: int, stride: int, log: Path | None) -> str:
    """Train the models, and return the tables in Markdown.

    Args:
        benches: learn, planted; both, if none is named.
        seeds: models of each kind, from seed 0.
        epochs: of each training.
        stride: bars between the starts of neighbouring windows.
        log: file that gets a line of JSON for each model, to go on from; or None.
    """
    torch.set_num_threads(1)
    tables = {"learn": learn, "planted": planted}
    return "\n\n".join(tables[name](seeds, epochs, stride, Known(log)) for name in benches or tables)


def learn(seeds: int, epochs: int, stride: int, known: Known) -> str:
    """Return the table of R2 on validation."""
    data = read(stride)
    measured = measure_prediction_baselines(data)
    assert measured is not None
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        for kind, rows in found.items():
            key = ("learn", kind, seed, epochs, stride)
            rows.append(known.get(key, lambda kind=kind, seed=seed: trained(kind, seed, epochs, data)[1]))
    rows = {name: [measured["baselines"][key]] for key, name in BASELINES.items()}
    head = ["predictor, teacher forcing", "reconstruction", "against none", "prediction"]
    lines = [_row(name, one, found["none"]) for name, one in {**found, **rows}.items()]
    return _table([*head, *(f"{n} ahead" for n in range(1, HORIZON + 1))], lines)


def _row(name: str, found: list[dict[str, float]], none: list[dict[str, float]]) -> list[str]:
    """Return a row of R2, means over the seeds with the standard deviation, and the pairs of seeds."""
    names = ["val/r2", "", "val/prediction_r2", *(f"val/prediction_r2_{n}" for n in range(1, HORIZON + 1))]
    cells = [_mean([one[key] for one in found if key in one]) for key in names]
    if "val/r2" in found[0] and found is not none:
        gains = np.array([one["val/r2"] - other["val/r2"] for one, other in zip(found, none, strict=True)])
        cells[1] = f"{gains.mean():+.3f}, more in {(gains > 0).sum()} of {len(gains)}"
    return [name, *cells]


def planted(seeds: int, epochs: int, stride: int, known: Known) -> str:
    """Return the table of average precision on planted errors."""
    cfg = compose_settings(["experiment=scorers", "evaluation.natural=null", "evaluation.max_buffer=1"])
    data = read(stride, f"data.features=[{','.join(cfg.data.features)}]")
    evaluation = Parts(cfg).evaluation
    assert isinstance(evaluation, CompareScorers)
    bars = part_bars(data.source.load(), data.recipe)

    def measure(seed: int) -> dict[str, dict[str, float]]:
        scorers = judges(seed, epochs, data)
        rows = evaluation.measure(bars, scorers, data.recipe.checks, warm_up=data.gap_bars, seed=seed)["errors"]
        found: dict[str, dict[str, float]] = {name: {} for name in scorers}
        for row in rows:
            found[row["scorer"]][row["kind"]] = row["average_precision"]
        return found

    found = [known.get(("planted", seed, epochs, stride), lambda seed=seed: measure(seed)) for seed in range(seeds)]
    kinds = [ALL, *evaluation.kinds]
    lines = [[name, *(_mean([one[name][kind] for one in found]) for kind in kinds)] for name in found[0]]
    return _table(["average precision", *kinds], lines)


def judges(seed: int, epochs: int, data: WindowDataModule) -> dict[str, Scorer]:
    """Return the models with their scores, PCA that predicts by a regression on its codes, and rows without a model."""
    assert data.scaler is not None
    made: dict[str, Scorer] = {}
    models = {kind: trained(kind, seed, epochs, data)[0] for kind in SCORES}
    judges = {}
    for kind, model in models.items():
        judges[kind] = judge = build_detector(compose_settings([]), model, data.recipe, data.scaler, data.feature_names)
        for name, score in SCORES[kind].items():
            own = judge.around(model)
            own.score_function = score()
            made[f"predictor={kind}, score={name}"] = own
    pca = Components(PCA(models["repeat"].code_size, seed).fit(data.train_windows), data.train_windows)
    for name, score in SCORES["repeat"].items():
        own = judges["repeat"].around(pca)
        own.score_function = score()
        made[f"PCA and regression, score={name}"] = own
    return {
        **made,
        "robust z of returns": RobustReturn(),
        "no model: asinh(z)^2": NoModel(data.recipe.entries or ()),
    }


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
