"""Measure what `data.overnight` does to the first bar of a session: alarms, lost scores, and ticks that are found.

    python scripts/bench overnight                              # three models of each kind
    python scripts/bench overnight --seeds 1 --epochs 2

Simulated five-minute bars of four assets, 78 a day, 120 days: volatility clusters and is highest at both ends of a day,
and a night moves the price as much as two hours of trading. A model is trained for each `data.overnight` and
`data.scale`, with the defaults of `data=parquet` otherwise. On the clean test part the alarms are counted. Then a close
of the calmest asset is moved by 1 % for one bar, at many places within the days, and at the first bars of other days.
"""

import statistics
import tempfile
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

import refold
from refold.library.run import Run
from scripts.bench.per_asset import QUIET
from scripts.bench.quiet import quiet

POLICIES = ("mask", "keep", "break")
SCALES = ("pooled", "per_asset", "trailing")
DAYS, BARS, MINUTES = 120, 78, 5
VOLATILITY = {"A": 0.0006, "B": 0.001, "C": 0.0015, "D": 0.0025}
"""Asset -> standard deviation of a log return in the middle of a usual day; that of a day is nine times as much."""
MOVE = 0.01
"""By what share a planted close is too high."""
TEST_DAYS = 17
"""Days at the end that lie in the test part, whatever is dropped between the parts."""


class Outcome(NamedTuple):
    """The findings of one model.

    alarms: per asset and day of the clean test part. first: share of the flagged bars that are the first of a day.
    scored: share of the bars that have a score. inside: share of the ticks found that were planted within days.
    opening: of those planted into first bars.
    """

    alarms: float
    first: float
    scored: float
    inside: float
    opening: float


def simulated(seed: int) -> pl.DataFrame:
    """Return the bars of all assets."""
    generator = np.random.default_rng(seed)
    first = date(2024, 1, 1)
    days = [day for n in range(2 * DAYS) if (day := first + timedelta(n)).weekday() < 5][:DAYS]
    minutes = [timedelta(minutes=MINUTES * n) for n in range(BARS)]
    stamps = [datetime.combine(day, time(9, 30)) + step for day in days for step in minutes]
    shape = 1 + 1.2 * np.square(np.linspace(-1, 1, BARS))  # of volatility within a day
    frames = []
    for asset, usual in VOLATILITY.items():
        level = np.zeros(DAYS)  # log of a day's volatility
        for day in range(1, DAYS):
            level[day] = 0.9 * level[day - 1] + 0.15 * generator.standard_normal()
        deviation = usual * np.exp(level)[:, None] * shape
        shocks = generator.standard_t(5, (DAYS, BARS)) * np.sqrt(3 / 5)
        night = generator.standard_t(4, DAYS) * np.sqrt(1 / 2) * usual * np.exp(level) * 5
        move = deviation * shocks
        opening = np.zeros((DAYS, BARS))
        opening[:, 0] = night
        close = 100 * np.exp(np.cumsum((move + opening).ravel()))
        open_ = close * np.exp(-move.ravel())
        reach = 0.5 * deviation.ravel()
        volume = np.exp(10 + 0.4 * generator.standard_normal(DAYS * BARS)) * np.tile(shape, DAYS)
        high = np.maximum(open_, close) * np.exp(reach * np.abs(generator.standard_normal(DAYS * BARS)))
        low = np.minimum(open_, close) * np.exp(-reach * np.abs(generator.standard_normal(DAYS * BARS)))
        prices = {"open": open_, "high": high, "low": low, "close": close, "volume": np.round(volume) + 1}
        frames.append(pl.DataFrame({"timestamp": stamps, "asset": asset, **prices}))
    return pl.concat(frames)


def planted(bars: pl.DataFrame, places: np.ndarray) -> pl.DataFrame:
    """Return the bars with a close that is MOVE too high at some places of the calmest asset, its first."""
    factor = np.ones(bars.height)
    factor[places] += MOVE
    close = pl.col("close") * pl.Series(factor)
    return bars.with_columns(close=close, high=pl.max_horizontal("high", close))


def judged(run: Run, bars: pl.DataFrame) -> Outcome:
    """Count what a model flags of the test part, clean and with ticks."""
    start, days = BARS * (DAYS - TEST_DAYS), np.arange(0, BARS * TEST_DAYS, BARS)
    inside = start + np.concatenate([days + 30, days[1:] + 60])
    opening = start + days[1:]
    with quiet():
        clean = run.score(bars)
        within = run.score(planted(bars, inside))["flagged"].fill_null(False).to_numpy()
        at_first = run.score(planted(bars, opening))["flagged"].fill_null(False).to_numpy()
    place = np.arange(bars.height) % (BARS * DAYS)
    test = place >= start
    flagged = clean["flagged"].fill_null(False).to_numpy() & test
    begun = flagged & ~np.concatenate([[False], flagged[:-1]])
    there = clean["score"].is_not_null().to_numpy()[test]
    return Outcome(
        alarms=float(begun.sum()) / (TEST_DAYS * len(VOLATILITY)),
        first=float((flagged & (place % BARS == 0)).sum() / max(1, flagged.sum())),
        scored=float(there.mean()),
        inside=float((within[inside] | within[inside + 1]).mean()),  # the way back is as strange as the way out
        opening=float((at_first[opening] | at_first[opening + 1]).mean()),
    )


def report(scales: list[str], seeds: int, epochs: int) -> str:
    """Train, judge, and return the table in Markdown.

    Args:
        scales: of SCALES.
        seeds: models of each kind, and simulated markets, from seed 0.
        epochs: of each training.
    """
    torch.set_num_threads(1)
    table = [
        "| `data.scale` | `data.overnight` | alarms per asset and day | first bars among the flagged "
        "| bars with a score | 1 % ticks found within days | in first bars |",
        "|---|---|---|---|---|---|---|",
    ]
    for scale in scales or SCALES:
        for policy in POLICIES:
            found = []
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as folder, quiet(Path(folder)):
                    path = Path(folder) / "bars.parquet"
                    bars = simulated(seed)
                    bars.write_parquet(path)
                    settings = [f"data.overnight={policy}", f"data.scale={scale}", "data.stride=8", f"seed={seed}"]
                    settings += [f"trainer.max_epochs={epochs}", "optimizer.lr=8e-3", *QUIET]
                    run = refold.train(path, overrides=settings)
                    found.append(judged(run, bars))
            middle = Outcome(*(statistics.median(values) for values in zip(*found, strict=True)))
            low, high = min(one.inside for one in found), max(one.inside for one in found)
            table.append(
                f"| {scale} | {policy} | {middle.alarms:.2f} | {middle.first:.0%} | {middle.scored:.1%} | "
                f"{middle.inside:.0%} ({low:.0%} to {high:.0%}) | {middle.opening:.0%} |"
            )
    return "\n".join(table)
