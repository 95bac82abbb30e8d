"""Is a budget of alarms kept, year after year? Walk forward over the embedded stocks, 2008 among the years.

    python scripts/bench walk_forward                                  # five seeds, nine years
    python scripts/bench walk_forward --seeds 1 --epochs 3

For each year from 2004 to 2012 a model is trained on all days up to two years before it. The two years before it
validate, and the year itself is scored. `threshold=budget` promises two alarms per asset and year, with
`threshold.adapt=0` (the level stays as fitted) and with others; `threshold=fdr` promises that a tenth of the flags is
false. The same is done with one close of each asset and year that is TICK too high: how many of these are found, and
how many of the alarms are others?
"""

import datetime as dt
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import refold
from refold.config.build import build_data
from refold.data import WindowDataModule
from refold.data.unsplit import unsplit_series
from refold.library.run import Run
from refold.scoring.budget import AlarmBudget
from refold.scoring.discoveries import FalseDiscoveries
from refold.scoring.scored import Scores, extent, timed_scores
from refold.scoring.thresholds import Threshold, asset_years, count_alarms
from scripts.bench.per_asset import planted
from scripts.bench.quiet import quiet

YEARS = range(2004, 2013)
BUDGET = 2.0
"""Alarms per asset and year."""
THRESHOLDS: dict[str, Threshold] = {
    f"adapt={adapt:g}": AlarmBudget(alarms=BUDGET, per="asset_year", adapt=adapt, per_asset=False)
    for adapt in (0.0, 0.5, 1.0, 1.5)
}
THRESHOLDS["fdr"] = FalseDiscoveries(share=0.1, block=250, per_asset=False)
TICK = 0.10
"""By what share a planted close is too high."""
MARGIN = 10
"""Bars, or days, from a planted close to the ends of its year and segment."""


class Outcome(NamedTuple):
    """The alarms of a level in one year.

    alarms: per asset and year. found: share of the planted ticks. others: share of the alarms, with ticks planted, that
    are no tick.
    """

    alarms: float
    found: float
    others: float


def trained(year: int, seed: int, epochs: int, folder: Path) -> Run:
    """Train a model that knows nothing of a year and the two before it, and keep the run in a folder."""
    settings = [
        "data.stride=2", "trainer=cpu", "trainer.devices=1", "optimizer.lr=8e-3", "logger=csv", f"seed={seed}",
        f"trainer.max_epochs={epochs}", "data/split=date", f"data.split.val_start={year - 2}-01-01",
        f"data.split.test_start={year}-01-01",
    ]  # fmt: skip
    with quiet(folder):
        return refold.train("stocks", overrides=settings)


def judged(run: Run, year: int) -> dict[str, Outcome]:
    """Return what each of THRESHOLDS did in a year."""
    data: Any = build_data(run.config)
    data.scaler = run.scaler
    data.setup()
    detector, series = run.detector, data.train_windows.series
    assert detector is not None
    validation, clean = (detector.score_series(series, data.segments(part)) for part in ("val", "test"))
    day = dt.date(1970, 1, 1).toordinal()
    first, end = (dt.date(number, 1, 1).toordinal() - day for number in (year, year + 1))
    rows = np.array(list(places(data, first, end, np.random.default_rng(int(run.config["seed"])))))
    piece = unsplit_series(planted(data, rows, TICK), data.recipe, run.scaler)
    spoilt = detector.score_series(piece.series, data.segments("test"))
    known = timed_scores(validation, series.time_dtype)
    within = (clean.times >= first) & (clean.times < end)
    results = {}
    for name, threshold in THRESHOLDS.items():
        detector.threshold = threshold
        threshold.fit_assets(known)
        flagged, found = (detector.flag(scored)[1] for scored in (only(clean, within), only(spoilt, within)))
        ticks = found[rows] | found[rows + 1]  # the way back is as strange as the way out
        alarms = count_alarms(found, spoilt.asset)
        results[name] = Outcome(
            count_alarms(flagged, clean.asset) / years(clean, within, series.time_dtype),
            float(ticks.mean()),
            max(0.0, 1 - float(ticks.sum()) / alarms) if alarms else 0.0,
        )
    return results


def only(scored: Scores, within: np.ndarray) -> Scores:
    """Return scores that are NaN outside some bars, so that a level learns from these alone."""
    return Scores(**{**vars(scored), "score": np.where(within, scored.score, np.nan)})


def years(scored: Scores, within: np.ndarray, dtype: Any) -> float:
    """Return the scored bars of a stretch of time, in years of bars of one asset."""
    moments, span = extent(only(scored, within), dtype)
    return asset_years(int(np.isfinite(scored.score[within]).sum()), moments, span)


def places(data: WindowDataModule, first: int, end: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield a row of the series for each asset of the test part between two days."""
    series = data.train_windows.series
    for start, count in data.segments("test").tolist():
        rows = np.arange(start + MARGIN, start + count - MARGIN)
        rows = rows[(series.times[rows] >= first + MARGIN) & (series.times[rows] < end - MARGIN)]
        if len(rows):
            yield int(rng.choice(rows))


def report(seeds: int, epochs: int) -> str:
    """Train, judge, and return the table in Markdown.

    Args:
        seeds: models of each year, from seed 0.
        epochs: of each training.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        results = {
            year: [judged(trained(year, seed, epochs, Path(scratch)), year) for seed in range(seeds)] for year in YEARS
        }
    return table(results)


def table(results: dict[int, list[dict[str, Outcome]]]) -> str:
    """Return the alarms of each year, mean over the seeds and range; below them means over the years.

    Args:
        results: year -> for each seed what each of THRESHOLDS did.
    """
    lines = ["| year | " + " | ".join(f"`{name}`" for name in THRESHOLDS) + " |", "|---|" + "---|" * len(THRESHOLDS)]
    for year, seeds in results.items():
        cells = [spread([seed[name].alarms for seed in seeds]) for name in THRESHOLDS]
        lines.append(f"| {year} | {' | '.join(cells)} |")
    seeds = [list(one) for one in zip(*results.values(), strict=True)]  # seed -> a year's results each
    means = {"mean of the years": "alarms", "ticks found": "found", "alarms that are no tick": "others"}
    for title, value in means.items():
        cells = [
            spread([statistics.mean(getattr(y[name], value) for y in one) for one in seeds]) for name in THRESHOLDS
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return mean and range."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
