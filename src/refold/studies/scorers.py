"""Comparison of scorers on errors of price feeds: real prices, planted errors, and the same bars for all.

For each kind of error there is a copy of the validation part and one of the test part with errors of that kind, and
real jumps beside them, which are none. Each scorer is fitted on clean training and validation bars, gets one threshold,
the one with the best event F1 over all copies of validation, and is measured on the copies of test.

Not counted, for all scorers alike: the first bars of each asset in a part (those that the model's windows and features
need before they are clean of the part before), and the bar after an error, whose own price is right and whose change is
not. A scorer that cannot tell of a bar counts as finding nothing there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, more_than
from refold.data import WindowDataModule
from refold.data.bars.checks import Checks
from refold.data.bars.findings import CHECKS
from refold.data.part_bars import part_bars
from refold.data.planted import Kind
from refold.data.windows.split import Part
from refold.errors import DataError
from refold.scoring.baselines import PCA, Chance, Components, Everything, Forest, NoModel
from refold.scoring.detection_metrics import (
    LabelledScores,
    affiliation,
    auroc,
    average_precision,
    best_threshold,
    detection_delay,
    event_average_precision,
    event_f1,
    pool,
    volume_under_surface,
)
from refold.scoring.detector import Detector
from refold.scoring.events import likely_kinds
from refold.scoring.labelled import MODEL
from refold.scoring.protocols import Scorer
from refold.scoring.rules import (
    RULES,
    LargestRank,
    RobustReturn,
    Rule,
    SpikeReversal,
    SplitRatio,
    StaleRun,
    UnitRatio,
)
from refold.studies.inject import KINDS, inject

FOUND_BY_CHECKS = {"broken bar": "broken_bar", "duplicate": "duplicate", "gap": "gap"}
"""Kinds that no scorer gets to see, because a check of the data finds them -> that check."""

JUMP = "real jump"
ALL = "all kinds"
RULES_ALONE = "four rules"
RULES_AND_MODEL = "rules + LSTM autoencoder"


def all_scorers(detector: Detector, data: WindowDataModule, seed: int) -> dict[str, Scorer]:
    """Build the model, the scorers that it is compared with, and combinations of both; none is fitted.

    PCA has as many components as the model's code has numbers, and goes through the same windows, alignment and score.

    Args:
        detector: the run's.
        data: the run's, set up.
        seed: seed of the forest and of the random scores, at least 0.

    Returns:
        Name -> scorer, in the order of the tables.
    """
    size = detector.autoencoder.code_size
    components = Components(PCA(size, seed).fit(data.train_windows), data.train_windows)

    def model() -> Detector:
        return detector.around(detector.autoencoder)

    def pca() -> Detector:
        return detector.around(components)

    def rules() -> dict[str, Rule]:
        return {kind: rule() for kind, rule in RULES.items()}

    return {
        MODEL: model(),
        f"PCA, {size} components": pca(),
        "robust z of returns": RobustReturn(),
        "isolation forest": Forest(data.recipe.entries or (), seed),
        "no model: asinh(z)^2": NoModel(data.recipe.entries or ()),
        "spike-reversal rule": SpikeReversal(),
        "stale-run rule": StaleRun(),
        "split-ratio rule": SplitRatio(),
        "unit-ratio rule": UnitRatio(),
        "random": Chance(seed),
        "flag everything": Everything(),
        RULES_ALONE: LargestRank(rules(), None, 0),
        "rules + robust z": LargestRank(rules(), RobustReturn(), 1),
        "rules + PCA": LargestRank(rules(), pca(), data.gap_bars),
        RULES_AND_MODEL: LargestRank(rules(), model(), data.gap_bars),
    }


@dataclass(frozen=True)
class SpoiltCopy:
    """A copy of a part with errors of one kind.

    Attributes:
        kind: kind of the errors.
        bars: N spoilt bars.
        counts: (N,) bool, bars that are measured.
        error: (N,) bool.
        jump: (N,) bool, real jumps, which are no errors.
    """

    kind: str
    bars: pl.DataFrame
    counts: np.ndarray
    error: np.ndarray
    jump: np.ndarray

    def series(self, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield scores and labels of the bars that count, asset by asset.

        Args:
            scores: (N,), NaN where there is none.
        """
        asset = self.bars["asset"].rle_id().to_numpy()
        known = np.where(np.isnan(scores), -np.inf, scores)
        for number in range(asset[-1] + 1):
            chosen = self.counts & (asset == number)
            if chosen.any():
                yield known[chosen], self.error[chosen]


def spoil(
    bars: pl.DataFrame, kind: str | Kind, *, per_thousand: float, warm_up: int, generator: np.random.Generator
) -> SpoiltCopy:
    """Plant errors of one kind, and as many real jumps, into a copy of a part.

    Args:
        bars: canonical and free of errors.
        kind: to plant, or the name of one of KINDS.
        per_thousand: errors, and jumps, per 1,000 bars.
        warm_up: first bars of each asset that do not count.
        generator: source of every random number here.

    Raises:
        DataError: there is no room.
    """
    name = kind if isinstance(kind, str) else kind.name
    spoilt, labels = inject(bars, [kind, JUMP], per_thousand=per_thousand, warm_up=warm_up, generator=generator)
    kinds = spoilt.join(labels, on=["timestamp", "asset"], how="left", maintain_order="left")["kind"]
    error, jump = ((kinds == called).fill_null(False).to_numpy() for called in (name, JUMP))
    asset = spoilt["asset"].rle_id().to_numpy()
    number = np.arange(len(asset))
    after = np.append(False, error[:-1] & (asset[1:] == asset[:-1])) & ~error
    warm = number - np.searchsorted(asset, asset) >= warm_up
    return SpoiltCopy(name, spoilt, warm & ~after, error, jump)


class CompareScorers:
    """Measure how well a trained model, its baselines and the rules find planted errors.

    Args:
        kinds: kinds of errors; those of `refold.studies.inject.KINDS` that scorers can see.
        per_thousand: errors of each kind, and real jumps, per 1,000 bars of a copy, above 0.
        max_buffer: bars around an error in which VUS gives credit, at least 0.
        natural: real splits and moves; None: none are judged.
    """

    @checked("evaluation")
    def __init__(
        self,
        *,
        kinds: Sequence[str],
        per_thousand: Annotated[float, more_than(0)],
        max_buffer: Annotated[int, at_least(0)],
        natural: "NaturalTest | None",
    ) -> None:
        seen = [kind for kind in KINDS if KINDS[kind].is_error and kind not in FOUND_BY_CHECKS]
        for kind in kinds:
            if kind not in seen:
                raise ValueError(f"evaluation.kinds has {kind!r}; it must be one of {', '.join(seen)}")
        if not kinds:
            raise ValueError(f"evaluation.kinds is empty; it must have some of {', '.join(seen)}")
        self.kinds = tuple(kinds)
        self.per_thousand = per_thousand
        self.max_buffer = max_buffer
        self.natural = natural

    def run(self, detector: Detector, data: WindowDataModule, *, seed: int) -> dict[str, Any]:
        """Measure a trained model and all scorers that it is compared with; see `Evaluation`.

        Returns:
            The values of `measure`, and "seed".
        """
        parts = part_bars(data.source.load(), data.recipe)
        scorers = all_scorers(detector, data, seed)
        return {"seed": seed, **self.measure(parts, scorers, data.recipe.checks, warm_up=data.gap_bars, seed=seed)}

    def metrics(self, measured: dict[str, Any]) -> dict[str, float]:
        row = next(row for row in measured["errors"] if (row["scorer"], row["kind"]) == (MODEL, ALL))
        return {f"errors/{name}": row[name] for name in ("average_precision", "vus_pr", "event_f1")}

    def measure(
        self,
        parts: Mapping[Part, pl.DataFrame],
        scorers: Mapping[str, Scorer],
        checks: Checks,
        *,
        warm_up: int,
        seed: int,
    ) -> dict[str, Any]:
        """Fit and measure all scorers.

        Args:
            parts: clean canonical bars of each part.
            scorers: name -> scorer.
            checks: the checks of the data.
            warm_up: first bars of each asset in a part that do not count.
            seed: seed of the errors.

        Returns:
            "errors": a row per scorer and kind. "checks": kind -> share that the checks of the data find. "natural": a
            row per scorer, or nothing.
        """
        generator = np.random.default_rng(seed)
        settings = {"per_thousand": self.per_thousand, "warm_up": warm_up, "generator": generator}
        copies = {part: [spoil(parts[part], kind, **settings) for kind in self.kinds] for part in ("val", "test")}
        found = {kind: _share_found(parts["test"], kind, checks, **settings) for kind in _seen_by_checks(parts["test"])}
        rows, natural = [], []
        for name, scorer in scorers.items():
            scorer.fit(parts["train"], parts["val"])
            threshold = best_threshold(pooled((one, scorer.score(one.bars)) for one in copies["val"]))["threshold"]
            scored = [(one, scorer.score(one.bars)) for one in copies["test"]]
            for kind in (*self.kinds, ALL):
                chosen = [(one, scores) for one, scores in scored if kind in (one.kind, ALL)]
                rows.append({"scorer": name, "kind": kind, **self._measure(chosen, threshold)})
            if self.natural is not None:
                natural.append({"scorer": name, **self.natural.judge(scorer, threshold)})
        return {"errors": rows, "checks": found, "natural": natural}

    def _measure(self, scored: Sequence[tuple[SpoiltCopy, np.ndarray]], threshold: float) -> dict[str, float | None]:
        seen = pooled(scored)
        measured = {
            "average_precision": average_precision(seen),
            "event_average_precision": event_average_precision(seen),
            "auroc": auroc(seen),
            **volume_under_surface(seen, max_buffer=self.max_buffer),
            **event_f1(seen, threshold=threshold),
            **affiliation(seen, threshold=threshold),
            **detection_delay(seen, threshold=threshold),
        }
        jumps = np.concatenate([scores[one.jump & one.counts] for one, scores in scored])
        measured |= {"jumps_flagged": float((jumps > threshold).mean()), "threshold": threshold}
        return {name: value if math.isfinite(value) else None for name, value in measured.items()}  # JSON has no NaN


def pooled(scored: Iterable[tuple[SpoiltCopy, np.ndarray]]) -> LabelledScores:
    """Put the bars that count of several scored copies one after another, asset by asset."""
    return pool(series for one, scores in scored for series in one.series(scores))


def _seen_by_checks(bars: pl.DataFrame) -> list[str]:
    return [kind for kind in FOUND_BY_CHECKS if set(KINDS[kind].needs) <= set(bars.columns)]


def _share_found(bars: pl.DataFrame, kind: str, checks: Checks, **settings: Any) -> float:
    """Return the share of planted bars of a kind that its check finds, beyond those that it finds in clean bars."""
    spoilt, labels = inject(bars, [kind], **settings)
    lenient = {name: "warn" if "warn" in CHECKS[name].policies else checks.policies[name] for name in CHECKS}
    counting = Checks(
        policies=lenient,
        scoring_policies={},
        interval=checks.interval,
        calendar=checks.calendar,
        stale_bars=checks.stale_bars,
        split_tolerance=checks.split_tolerance,
        kind=checks.kind,
    )
    counts = []
    for table in (spoilt, bars):
        findings = counting.run(table).table
        counts.append(findings.filter(pl.col("check") == FOUND_BY_CHECKS[kind])["bars"].sum())
    return (counts[0] - counts[1]) / labels.height


class NaturalTest:
    """Judge scorers on bars whose history is known: splits that nobody adjusted, and moves that were real.

    Args:
        source: the source of the bars.
        splits: [asset, date] of each split.
        moves: [asset, date] of each real move.
    """

    @checked("evaluation.natural")
    def __init__(self, *, source: Any, splits: Sequence[Sequence[str]], moves: Sequence[Sequence[str]]) -> None:
        self.source = source
        self.splits = [tuple(map(str, place)) for place in splits]
        self.moves = [tuple(map(str, place)) for place in moves]

    def judge(self, scorer: Scorer, threshold: float) -> dict[str, float]:
        """Count the known bars that a scorer flags and names, and the other bars that it flags.

        A flagged bar counts as an error if it looks like one (`likely_kinds`), and otherwise as merely unusual.

        Args:
            scorer: fitted.
            threshold: a bar is flagged if its score is above it.

        Returns:
            splits, splits_flagged, splits_named, moves, moves_flagged, moves_called_error, others_per_1000_bars.
        """
        bars = self.source.load().sort("asset", "timestamp")
        scores = scorer.score(bars)
        flagged = np.where(np.isnan(scores), -np.inf, scores) > threshold
        named = bars.select("asset", pl.col("timestamp").cast(pl.String).str.head(10)).with_columns(
            flagged=pl.Series(flagged), kind=likely_kinds(bars)
        )
        rows: dict[tuple[str, ...], dict[str, Any]] = {
            (row["asset"], row["timestamp"]): row for row in named.iter_rows(named=True)
        }
        missing = [place for place in (*self.splits, *self.moves) if place not in rows]
        if missing:
            raise DataError(f"evaluation.natural names {' '.join(missing[0])}; {self.source} has no such bar")
        splits, moves = ([rows[place] for place in places] for places in (self.splits, self.moves))
        known = sum(row["flagged"] for row in (*splits, *moves))
        return {
            "splits": len(splits),
            "splits_flagged": sum(row["flagged"] for row in splits),
            "splits_named": sum(row["flagged"] and row["kind"] == "split" for row in splits),
            "moves": len(moves),
            "moves_flagged": sum(row["flagged"] for row in moves),
            "moves_called_error": sum(row["flagged"] and row["kind"] is not None for row in moves),
            "others_per_1000_bars": 1000 * (int(flagged.sum()) - known) / bars.height,
        }
