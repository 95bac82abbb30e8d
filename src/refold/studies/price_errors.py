"""Measure both verdicts: on errors of sizes that the head was taught and of others, and of kinds that it was not.

Beside them stand real events, alarms on clean bars, and time; beside the head of `score=planted` stand one without an
autoencoder, one on PCA, the rules, and two scores of unusual bars, which were shown no error.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from refold.bounds import checked, more_than
from refold.data import WindowDataModule
from refold.data.part_bars import part_bars
from refold.data.planted import BadTick, Kind, PriceUnit, Split, Stale, WholeBar, Wick
from refold.data.windows.split import Part
from refold.errors import ConfigError
from refold.scoring.baselines import PCA, Components
from refold.scoring.detection_metrics import average_precision, best_threshold, event_average_precision, event_f1
from refold.scoring.detector import Detector
from refold.scoring.planting import Planter
from refold.scoring.protocols import Scorer
from refold.scoring.rules import RULES, LargestRank, OnOneScale
from refold.scoring.scores import FeatureScore, PlantedErrors, StudentScore
from refold.scoring.thresholds import count_alarms
from refold.studies.inject import KINDS
from refold.studies.scorers import ALL, RULES_ALONE, NaturalTest, SpoiltCopy, pooled, spoil

HEAD = "head"
WITHOUT = "head without autoencoder"
ON_PCA = "head on PCA"
RULES_AND_HEAD = "rules beside the head"
UNUSUAL, NO_MODEL = "unusual: student", "unusual: features"
FIXED, TAUGHT = "usual sizes", "sizes of training"
OTHER, UNTAUGHT = "other sizes", "kinds left out of training"

OTHER_SIZES: tuple[Kind, ...] = (
    BadTick("bad tick", 0.015, 0.03, "price"),
    Wick("wick", 0.015, 0.03, "price"),
    WholeBar("whole bar", 0.05, 0.0501, "price"),
    Stale("stale", 2, 4, 0.0),
    Split("split", [6.0, 1.75, 1 / 3]),
    PriceUnit("unit", [1000.0, 0.001], 5),
)
"""Ticks of 1.5 to 3 %, bars off by 5 %, runs of 2 to 4 bars, odd splits, thousands: the ends of what is taught."""

DAYS = 252  # bars of a year


class NoAutoencoder(nn.Module):
    """Stand in for an autoencoder that knows nothing: its reconstruction is 0, and so is its one number of a code."""

    code_size = 1
    horizon = 0

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return zeros (B, 1)."""
        return windows.new_zeros(len(windows), 1)

    def decode(self, code: Tensor, window_size: int, mask: Tensor | None = None) -> Tensor:
        """Return zeros (B, T, F)."""
        return code.new_zeros(len(code), window_size, self.num_features)


class PriceErrors:
    """Measure the named verdict of a run; see `refold.scoring.protocols.Evaluation`.

    Args:
        per_thousand: errors of each kind, and real jumps, per 1,000 bars of a copy, above 0.
        leave_out: kinds that are left out of the head's training, one at a time, by the keys of score.kinds.
        natural: real splits and moves.
    """

    @checked("evaluation")
    def __init__(
        self, *, per_thousand: Annotated[float, more_than(0)], leave_out: Sequence[str], natural: NaturalTest
    ) -> None:
        self.per_thousand = per_thousand
        self.leave_out = list(leave_out)
        self.natural = natural

    def run(self, detector: Detector, data: WindowDataModule, *, seed: int) -> dict[str, Any]:
        """Measure a trained model; the head of the run is used as it is.

        Raises:
            ConfigError: the run's score is another one, or a kind to leave out is none of its kinds.
        """
        score = detector.score_function
        if not isinstance(score, PlantedErrors):
            raise ConfigError(f"score is {type(score).__name__}; experiment=price_errors measures score=planted")
        parts = part_bars(data.source.load(), data.recipe)
        sets = self._sets(parts, score, data.gap_bars, np.random.default_rng(seed))
        rows, natural, clean = [], [], []
        scorers = _scorers(detector, data, seed)
        for name, scorer in scorers.items():
            began = time.process_time()
            if scorer is not detector:
                scorer.fit(parts["train"], parts["val"])
            fitted = time.process_time()
            threshold = _threshold(scorer, sets[FIXED]["val"])
            for title, copies in sets.items():
                rows += [{"scorer": name, "set": title, **row} for row in _measure(scorer, copies["test"], threshold)]
            natural.append({"scorer": name, **self.natural.judge(scorer, threshold)})
            began_scoring = time.process_time()
            alarms = {part: _alarms(scorer, parts[part], threshold) for part in ("val", "test")}
            times = {"fit_cpu_s": fitted - began, "score_cpu_s": time.process_time() - began_scoring}
            clean.append({"scorer": name, **alarms, **times, "threshold": threshold})
        rows += self._left_out(detector, parts, sets[FIXED], {name: scorers[name] for name in (UNUSUAL, NO_MODEL)})
        return {"seed": seed, "errors": rows, "checks": {}, "natural": natural, "clean": clean}

    def metrics(self, measured: dict[str, Any]) -> dict[str, float]:
        row = next(row for row in measured["errors"] if (row["scorer"], row["set"], row["kind"]) == (HEAD, FIXED, ALL))
        return {f"errors/{name}": row[name] for name in ("average_precision", "event_f1")}

    def _sets(
        self, parts: Mapping[Part, pl.DataFrame], score: PlantedErrors, warm_up: int, generator: np.random.Generator
    ) -> dict[str, dict[str, list[SpoiltCopy]]]:
        """Plant each set of kinds into copies of validation and test: title -> part -> copies."""
        taught = [kind for kind in score.planted if kind.name in score.names]
        fixed = [KINDS[name] for name in ("bad tick", "wick", "stale", "split", "unit")]
        settings = {"per_thousand": self.per_thousand, "warm_up": warm_up, "generator": generator}
        return {
            title: {part: [spoil(parts[part], kind, **settings) for kind in kinds] for part in ("val", "test")}
            for title, kinds in ((FIXED, fixed), (TAUGHT, taught), (OTHER, OTHER_SIZES))
        }

    def _left_out(
        self,
        detector: Detector,
        parts: Mapping[Part, pl.DataFrame],
        copies: Mapping[str, list[SpoiltCopy]],
        unusual: Mapping[str, Scorer],
    ) -> list[dict[str, Any]]:
        """Train a head without each kind, and measure it on that kind, beside scores that were shown no error.

        The other kinds decide all thresholds.
        """
        rows = []
        for name in self.leave_out:
            head = detector.around(detector.autoencoder)
            head.score_function = _without(detector.score_function, name)
            head.fit(parts["train"], parts["val"])
            own = [one for one in copies["test"] if one.kind == name]
            others = [one for one in copies["val"] if one.kind != name]
            for scorer_name, scorer in {HEAD: head, **unusual}.items():
                measured = _measure(scorer, own, _threshold(scorer, others))
                rows += [{"scorer": scorer_name, "set": UNTAUGHT, **row} for row in measured if row["kind"] == name]
        return rows


def _scorers(detector: Detector, data: WindowDataModule, seed: int) -> dict[str, Scorer]:
    """Build the scorers in the order of the tables; the detector of the run is fitted."""
    size = detector.autoencoder.code_size
    components = Components(PCA(size, seed).fit(data.train_windows), data.train_windows)
    rules = {kind: rule() for kind, rule in RULES.items()}
    return {
        HEAD: detector,
        WITHOUT: detector.around(NoAutoencoder(data.num_features)),
        ON_PCA: detector.around(components),
        RULES_ALONE: LargestRank({kind: rule() for kind, rule in RULES.items()}, None, 0),
        RULES_AND_HEAD: OnOneScale(rules, detector, _planter(detector), _prior(detector)),
        UNUSUAL: detector.judging_by(StudentScore()),
        NO_MODEL: detector.judging_by(FeatureScore()),
    }


def _planter(detector: Detector) -> Any:
    """Return a function from training bars to copies of them with what the head learns from, as `OnOneScale` asks."""
    score = detector.score_function
    assert isinstance(score, PlantedErrors)

    def copies(train: pl.DataFrame) -> Iterable[tuple[pl.DataFrame, np.ndarray, np.ndarray]]:
        planter = Planter(detector.recipe, detector.scaler, score.planted, score.per_thousand, train)
        for number in range(max(1, score.copies // 4)):
            planted, labels = planter.plant(train, score.generator("rules", number))
            yield planted.bars, labels, planted.label > 0

    return copies


def _prior(detector: Detector) -> float:
    score = detector.score_function
    assert isinstance(score, PlantedErrors)
    return float(score.prior)


def _without(score: Any, name: str) -> PlantedErrors:
    """Return a score of the same settings that is not taught one kind."""
    kept = [kind for kind in score.planted if kind.name != name]
    if len(kept) == len(score.planted):
        names = ", ".join(kind.name for kind in score.planted if kind.is_error)
        raise ConfigError(f"evaluation.leave_out has {name!r}; it must be one of {names}")
    other = copy(score)
    other.planted, other.head = kept, None
    return other


def _threshold(scorer: Scorer, copies: Sequence[SpoiltCopy]) -> float:
    return best_threshold(pooled((one, scorer.score(one.bars)) for one in copies))["threshold"]


def _measure(scorer: Scorer, copies: Sequence[SpoiltCopy], threshold: float) -> list[dict[str, Any]]:
    """Measure a scorer on each copy, and on all together."""
    scored = [(one, scorer.score(one.bars)) for one in copies]
    rows = []
    for kind in (*(one.kind for one in copies), ALL):
        chosen = [(one, scores) for one, scores in scored if kind in (one.kind, ALL)]
        seen = pooled(chosen)
        ranked = {
            "average_precision": average_precision(seen),
            "event_average_precision": event_average_precision(seen),
        }
        values = {**ranked, **event_f1(seen, threshold=threshold)}
        jumps = np.concatenate([scores[one.jump & one.counts] for one, scores in chosen])
        values["jumps_flagged"] = float((jumps > threshold).mean())
        rows.append({"kind": kind, **{name: value if math.isfinite(value) else None for name, value in values.items()}})
    return rows


def _alarms(scorer: Scorer, bars: pl.DataFrame, threshold: float) -> float:
    """Return the alarms per asset and year of clean daily bars."""
    scores = scorer.score(bars)
    flagged = np.where(np.isnan(scores), -np.inf, scores) > threshold
    years = np.count_nonzero(~np.isnan(scores)) / DAYS
    return count_alarms(flagged, bars["asset"].rle_id().to_numpy()) / years
