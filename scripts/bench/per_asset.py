"""One scale and one level for all assets against one for each: what is found in a calm asset, and who is flagged.

    python scripts/bench per_asset                                     # all of it: three sets of data, five seeds
    python scripts/bench per_asset --data mixture --seeds 1 --epochs 3

For each set of data and `data.scale`, five models are trained. Each is judged by `threshold=quantile` and by
`threshold=budget` (two alarms per asset and year), with a level for all assets and with one for each. On the clean test
part the alarms are counted. Then a close of the calmest asset is moved by 3 % for one bar, at many places of the test
part, far enough apart that no window holds two of them.

mixture: S&P 500 and Nasdaq (of the package `arch`) with the five embedded stocks. stocks: those alone. panel: twenty
stocks, each a series of its own.
"""

import contextlib
import io
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

import refold
from refold.config.build import build_data
from refold.config.compose import compose_settings
from refold.data import WindowDataModule
from refold.data.unsplit import unsplit_series
from refold.library.run import Run
from refold.scoring.budget import AlarmBudget
from refold.scoring.scored import Scores, extent, timed_scores
from refold.scoring.thresholds import Quantile, Threshold, asset_years, count_alarms

SCALES = ("pooled", "per_asset", "trailing")
MOVE = 0.03
"""By what share a planted close is too high."""
APART = 40
"""Bars from one planted tick to the next: no window of 32 holds two."""

FEATURES = "[overnight_return,intraday_return,parkinson_range,trailing_volatility_20,relative_volume_20]"
SETS = {
    "mixture": [f"data.features={FEATURES}", "data.checks.calendar=XNYS", "data.stride=2"],
    "stocks": ["data.stride=2"],
    "panel": ["data.layout=per_asset", "data.stride=16"],
}
"""Data -> settings. The strides leave some 3,000 to 6,000 training windows in an epoch."""

QUIET = ["trainer=cpu", "trainer.devices=1", "logger=csv", "optimizer.lr=8e-3"]


class Outcome(NamedTuple):
    """The findings of a threshold with one model.

    found: share of the planted ticks. alarms: per asset and year of the clean test part, of all assets. worst: of the
    asset with the most. share: of all flags of the clean test part, those of the asset with the most. own: share of the
    flags of validation that this asset has.
    """

    found: float
    alarms: float
    worst: float
    share: float
    own: float


def mixture() -> pl.DataFrame:
    """Return S&P 500, Nasdaq and the five stocks, over the years of the stocks."""
    from arch.data import nasdaq, sp500  # a test extra

    stocks = build_data(compose_settings(["data=stocks"])).source.load()
    first, last = stocks["timestamp"].min(), stocks["timestamp"].max()
    frames = [stocks.with_columns(pl.col("asset").cast(pl.String))]
    for name, source in (("NASDAQ", nasdaq), ("SP500", sp500)):
        bars = pl.from_pandas(source.load().reset_index()).rename(str.lower)
        bars = bars.with_columns(timestamp=pl.col("date").cast(pl.Date), asset=pl.lit(name))
        frames.append(bars.filter(pl.col("timestamp").is_between(first, last)))
    columns = ["timestamp", "asset", *(pl.col(name).cast(float) for name in ("open", "high", "low", "close", "volume"))]
    return pl.concat(frame.select(columns) for frame in frames).sort("asset", "timestamp")


def trained(name: str, scale: str, seed: int, epochs: int, folder: Path) -> tuple[Run, WindowDataModule]:
    """Train a model, and return it with its data, set up on the model's scale."""
    source: Any = name
    if name == "mixture":
        source = folder / "mixture.parquet"
        if not source.exists():
            mixture().write_parquet(source)
    settings = [*SETS[name], *QUIET, f"data.scale={scale}", f"seed={seed}", f"trainer.max_epochs={epochs}"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        run = refold.train(source, overrides=settings)
    data = build_data(run.config)
    data.scaler = run.scaler
    data.setup()
    return run, data


def calmest(data: WindowDataModule) -> str:
    """Return the asset whose close moves least on the training part."""
    series = data.train_windows.series
    assert series.close is not None
    moves = {}
    for first, bars in data.segments("train").tolist():
        close = series.close[first : first + bars].double().log()
        moves.setdefault(series.assets(np.array([first]))[0], []).append(close.diff())
    return min(moves, key=lambda name: float(torch.cat(moves[name]).std()))


def places(data: WindowDataModule, asset: str) -> np.ndarray:
    """Return rows of the series, APART from each other, in an asset's test part."""
    series = data.train_windows.series
    runs = [run for run in data.segments("test").tolist() if series.assets(np.array([run[0]]))[0] == asset]
    return np.concatenate([np.arange(first + APART // 2, first + count - 2, APART) for first, count in runs])


def planted(data: WindowDataModule, rows: np.ndarray, move: float) -> pl.DataFrame:
    """Return the bars with a close that is a share too high in some rows of the series."""
    series, bars = data.train_windows.series, data.source.load()
    days = pl.Series("timestamp", series.times[rows]).cast(series.time_dtype).cast(bars.schema["timestamp"])
    ticks = pl.DataFrame({"timestamp": days, "asset": series.assets(rows), "tick": True})
    marked = bars.with_columns(pl.col("asset").cast(pl.String)).join(
        ticks, on=["timestamp", "asset"], how="left", maintain_order="left"
    )
    moved = pl.when(pl.col("tick").fill_null(False)).then(pl.col("close") * (1 + move)).otherwise("close")
    marked = marked.with_columns(moved.alias("close"))
    if "high" in marked.columns:
        marked = marked.with_columns(pl.max_horizontal("high", "close").alias("high"))
    return marked.drop("tick")


def judged(run: Run, data: WindowDataModule) -> Iterator[tuple[str, str, Outcome]]:
    """Yield what each threshold, with a level for all assets and one for each, finds with a model."""
    detector, series = run.detector, data.train_windows.series
    assert detector is not None
    assert data.scaler is not None
    validation, clean = (detector.score_series(series, data.segments(part)) for part in ("val", "test"))
    rows = places(data, calmest(data))
    piece = unsplit_series(planted(data, rows, MOVE), data.recipe, data.scaler)
    assert len(piece.series.times) == len(series.times)
    spoilt = detector.score_series(piece.series, data.segments("test"))
    for name, levels, threshold in thresholds():
        threshold.fit_assets(timed_scores(validation, series.time_dtype))
        detector.threshold = threshold
        known, flagged, found = (detector.flag(scored)[1] for scored in (validation, clean, spoilt))
        yield name, levels, outcome(series.time_dtype, clean, known, flagged, found, rows)


def outcome(
    dtype: pl.DataType, clean: Scores, known: np.ndarray, flagged: np.ndarray, found: np.ndarray, rows: np.ndarray
) -> Outcome:
    """Count what was found and flagged; see `Outcome`."""
    assets, there = np.unique(clean.asset), np.isfinite(clean.score)
    moments, span = extent(clean, dtype)
    years = {n: asset_years(int(there[clean.asset == n].sum()), moments, span) for n in assets}
    alarms = {n: count_alarms(flagged & (clean.asset == n), clean.asset) for n in assets}
    flags = {n: int(flagged[clean.asset == n].sum()) for n in assets}
    most = max(flags, key=lambda n: flags[n])
    return Outcome(
        found=float((found[rows] | found[rows + 1]).mean()),  # the way back is as strange as the way out
        alarms=sum(alarms.values()) / sum(years.values()),
        worst=max(alarms[n] / years[n] for n in assets if years[n]),
        share=flags[most] / max(1, sum(flags.values())),
        own=float(known[clean.asset == most].sum() / max(1, known.sum())),
    )


def thresholds() -> Iterator[tuple[str, str, Threshold]]:
    """Yield the thresholds with their names, not fitted."""
    for levels, per_asset in (("one for all", False), ("one for each", True)):
        yield "quantile", levels, Quantile(share=0.995, per_asset=per_asset)
        yield "budget", levels, AlarmBudget(alarms=2.0, per="asset_year", adapt=0.0, per_asset=per_asset)


def report(sets: list[str], seeds: int, epochs: int, scales: list[str], log: Path | None) -> str:
    """Train, judge, and return the table in Markdown.

    Args:
        sets: names of SETS.
        seeds: models of each kind, from seed 0.
        epochs: of each training.
        scales: of SCALES.
        log: file that gets a line of JSON for each model and threshold, or None.
    """
    torch.set_num_threads(1)
    table = [
        "| data | `data.scale` | threshold | level | 3 % ticks found | alarms per asset and year | of the worst asset "
        "| largest share of flags | its share on validation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            for name in sets or list(SETS):
                for scale in scales or list(SCALES):
                    seen: dict[tuple[str, str], list[Outcome]] = {}
                    for seed in range(seeds):
                        for threshold, levels, found in judged(*trained(name, scale, seed, epochs, Path(scratch))):
                            seen.setdefault((threshold, levels), []).append(found)
                            if log:
                                line = {"data": name, "scale": scale, "seed": seed, "threshold": threshold}
                                with (home / log).open("a") as file:
                                    file.write(json.dumps({**line, "levels": levels, **found._asdict()}) + "\n")
                    table += [row(name, scale, *key, found) for key, found in seen.items()]
        finally:
            os.chdir(home)
    return "\n".join(table)


def row(name: str, scale: str, threshold: str, levels: str, found: list[Outcome]) -> str:
    """Return a line of the table: medians over the seeds, and the range of what was found."""
    middle = Outcome(*(statistics.median(values) for values in zip(*found, strict=True)))
    low, high = min(one.found for one in found), max(one.found for one in found)
    return (
        f"| {name} | {scale} | {threshold} | {levels} | {middle.found:.0%} ({low:.0%} to {high:.0%}) | "
        f"{middle.alarms:.1f} | {middle.worst:.1f} | {middle.share:.0%} | {middle.own:.0%} |"
    )
