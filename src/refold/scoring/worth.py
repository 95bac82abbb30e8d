"""Measure the worth of a verdict: the share of errors, planted into a copy of the test part, that it flags."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from refold.data.planted import BadTick, Kind, PriceUnit, Split, Stale, Wick, usable_kinds
from refold.errors import DataError
from refold.scoring.detection_metrics import average_precision, pool
from refold.scoring.detector import Detector
from refold.scoring.planting import Planter
from refold.scoring.scores.base_score import asset_rows
from refold.scoring.thresholds import running_levels

SPLIT_FACTORS = (2.0, 3.0, 1.5, 10.0, 0.1)  # price before / after, had nobody adjusted it: 2:1, 3:1, 3:2, 10:1, 1:10

ERRORS: tuple[Kind, ...] = (
    BadTick("bad tick", 0.03, 0.2, "price"),
    Wick("wick", 0.03, 0.2, "price"),
    Stale("stale", 5, 20, 0.0),
    Split("split", SPLIT_FACTORS),
    PriceUnit("unit", (100.0, 0.01), 5),
)
"""Errors that feeds are known for, in sizes that matter; the studies plant the same."""

PER_THOUSAND = 4.0
"""Errors of each kind per 1,000 bars of the copy."""

log = logging.getLogger("refold.score")


def measure_worth(detector: Detector, bars: pl.DataFrame, seed: int) -> dict[str, Any] | None:
    """Plant errors into a copy of some bars, and count those that a fitted detector flags.

    Args:
        detector: fitted; its own levels decide.
        bars: canonical, of the test part; of many bars some are chosen.
        seed: of the errors.

    Returns:
        verdict (named or unusual), errors, flagged (errors with a flagged bar) and average_precision of the scores;
        None where the bars are no prices, or there is no room to plant.
    """
    recipe = detector.recipe
    kinds = usable_kinds(ERRORS, bars, recipe.checks.kind)[0] if recipe.checks.kind == "prices" else []
    if not kinds:
        return None
    try:
        planter = Planter(recipe, detector.scaler, kinds, PER_THOUSAND, bars)
        planted, labels = planter.plant(bars, np.random.default_rng([seed, len(ERRORS)]))
        scores = detector.score(planted.bars)
    except DataError as error:
        log.info("what the verdict is worth was not measured: %s", error)
        return None
    assets = planted.bars["asset"].cast(pl.String)
    levels = running_levels(detector.threshold, scores, assets, {})
    with np.errstate(invalid="ignore"):
        flagged = scores > levels
    counted, errors = (labels >= 0) & ~np.isnan(scores), _episodes(labels, assets)
    if not (labels[counted] > 0).any():
        return None
    parts = asset_rows(assets.rle_id().to_numpy())
    seen = pool((scores[rows][counted[rows]], labels[rows][counted[rows]] > 0) for rows in parts)
    return {
        "verdict": detector.score_function.question,
        "errors": len(errors),
        "flagged": sum(bool(flagged[rows].any()) for rows in errors),
        "average_precision": average_precision(seen),
    }


def _episodes(labels: np.ndarray, assets: pl.Series) -> Sequence[slice]:
    """Return the rows of each planted error."""
    number = pl.DataFrame({"label": labels, "asset": assets}).select(pl.struct("label", "asset").rle_id()).to_series()
    starts = np.flatnonzero(np.diff(number.to_numpy(), prepend=-1))
    ends = np.append(starts[1:], len(labels))
    return [slice(int(first), int(end)) for first, end in zip(starts, ends, strict=True) if labels[first] > 0]
