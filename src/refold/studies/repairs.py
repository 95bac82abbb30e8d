"""Measure how near proposed values are to the truth on planted errors, beside plain ways to fill in a value.

    python -m refold.studies.repairs docs/repair.md

measures the test part of `experiment=scorers` with five seeds, and writes the table into the page.

Letters: N bars, W values that an error changed.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from refold.config.build import build_data
from refold.config.compose import compose_settings
from refold.data.bars.table import PRICES
from refold.data.planted import (
    BadTick,
    Crash,
    FlashCrash,
    Halt,
    Kind,
    OpenTick,
    Planted,
    PriceUnit,
    RealJump,
    Split,
    Stale,
    WholeBar,
    Wick,
    plant,
)
from refold.scoring.repair import EARLIER, apply_repairs, repair
from refold.scoring.worth import SPLIT_FACTORS
from refold.studies.pages import fill_page
from refold.studies.scorers import part_bars

_SIZES = {"smallest": 0.03, "largest": 0.2, "unit": "price"}
KINDS: Sequence[Kind] = (
    BadTick("bad tick", **_SIZES),
    OpenTick("open tick", **_SIZES),
    Wick("wick", **_SIZES),
    WholeBar("whole bar", **_SIZES),
    Stale("stale", 5, 20, 0.0),
    Split("split", SPLIT_FACTORS),
    PriceUnit("unit", (100.0, 0.01), 5),
    RealJump("real jump", **_SIZES, busiest=1.0),
    Crash("crash", 0.15, 0.6, 0.25),
    FlashCrash("flash crash", 0.03, 0.2, "price"),
    Halt("halt", 5),
)
"""Errors of the sizes of `experiment=scorers`, and real moves, of which none may be altered."""

SEEDS = range(5, 10)  # others than those that the rules were looked at with
_PER_THOUSAND = 8.0
_WARM_UP = 60  # bars whose surroundings the repair looks at
_EXACT = 1e-9
_CELL = 14  # width of a column of the table


def measure_repairs(bars: pl.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Plant each kind into a copy of bars, repair the bars of its episodes, and compare with the truth.

    Args:
        bars: canonical, free of errors, of the test part.
        seed: of the errors.

    Returns:
        A row per kind: seed, kind, is_error, episodes, altered (those with a changed value), exact (those whose values
        are the truth), coverage (share of true values within their intervals), and the median error of log prices of
        the changed values by each way to fill them in; None where there is nothing to measure.
    """
    rows = []
    for kind in KINDS:
        generator = np.random.default_rng([seed, KINDS.index(kind)])
        planted = plant(bars, [kind], per_thousand=_PER_THOUSAND, warm_up=_WARM_UP, generator=generator)
        rows.append({"seed": seed, "kind": kind.name, "is_error": kind.is_error, **_compare(planted, kind)})
    return rows


def _compare(planted: Planted, kind: Kind) -> dict[str, Any]:
    first, last, episode = _episodes(planted)
    spans = pl.DataFrame(
        {
            "asset": planted.bars["asset"].cast(pl.String).gather(first),
            "start": planted.bars["timestamp"].gather(first),
            "end": planted.bars["timestamp"].gather(last),
        }
    )
    proposed = repair(planted.bars, spans)
    repaired = apply_repairs(planted.bars, proposed)
    given, truth, made = (
        np.stack([np.log(table[name].cast(pl.Float64).to_numpy()) for name in PRICES])
        for table in (planted.bars, planted.truth, repaired)
    )
    starts = set(proposed["event_start"].to_list()) if proposed.height else set()
    altered = sum(moment in starts for moment in spans["start"])
    wrong = (np.abs(given - truth) > _EXACT) & (episode >= 0)  # (4, N)
    column, row = np.nonzero(wrong)
    result: dict[str, Any] = {
        "episodes": len(first),
        "altered": altered,
        "exact": _exact(planted, kind, proposed, made, truth),
    }
    if not len(row):
        return result
    errors = {"repair": made, **_plain_ways(planted, given, episode, first, last)}
    result |= {name: float(np.median(np.abs(values - truth)[column, row])) for name, values in errors.items()}
    return {**result, "coverage": _coverage(planted, proposed)}


def _episodes(planted: Planted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first and last rows of episodes, (E,) each, and the number of each row's, (N,), -1 for none."""
    inside = planted.label > 0
    asset = planted.bars["asset"].rle_id().to_numpy()
    begins = inside & ~np.append(False, inside[:-1] & (asset[1:] == asset[:-1]))
    ends = inside & ~np.append(inside[1:] & (asset[1:] == asset[:-1]), False)
    return np.flatnonzero(begins), np.flatnonzero(ends), np.where(inside, np.cumsum(begins) - 1, -1)


def _exact(planted: Planted, kind: Kind, proposed: pl.DataFrame, made: np.ndarray, truth: np.ndarray) -> int:
    """Count the episodes whose values, or whose factor of all earlier prices, are the truth."""
    first, last, _ = _episodes(planted)
    splits = proposed.filter(column=EARLIER).select("asset", "timestamp", "factor")
    found = {(asset, moment): factor for asset, moment, factor in splits.iter_rows()}
    asset, moment = planted.bars["asset"].cast(pl.String), planted.bars["timestamp"]
    count = 0
    for start, end in zip(first, last, strict=True):
        factor = found.get((asset[int(start)], moment[int(start)]))
        if isinstance(kind, Split):
            count += factor is not None and math.isclose(factor, planted.factor[start], rel_tol=1e-9)
        else:
            count += bool(np.abs(made[:, start : end + 1] - truth[:, start : end + 1]).max() < _EXACT)
    return count


def _plain_ways(
    planted: Planted, given: np.ndarray, episode: np.ndarray, first: np.ndarray, last: np.ndarray
) -> dict[str, np.ndarray]:
    """Return log prices (4, N) with each way's values in place of those of the episodes."""
    row = np.arange(len(episode))
    before = np.where(episode >= 0, first[episode] - 1, row)
    after = np.minimum(np.where(episode >= 0, last[episode] + 1, row), len(row) - 1)
    share = (row - before) / np.maximum(after - before, 1)
    moment = planted.bars["timestamp"].rank("dense").to_numpy().astype(np.int64)
    moves = np.diff(given, axis=1, prepend=np.nan)
    asset = planted.bars["asset"].rle_id().to_numpy()
    known = np.append(False, asset[1:] == asset[:-1]) & (episode < 0)
    peers = np.stack([_mean_of_others(np.where(known, own, np.nan), moment) for own in moves])
    walked = given.copy()
    for number in np.flatnonzero(episode >= 0):
        walked[:, number] = walked[:, number - 1] + peers[:, number]
    return {
        "last": given[:, before],
        "interpolation": given[:, before] * (1 - share) + given[:, after] * share,
        "neighbours": (given[:, before] + given[:, after]) / 2,
        "peers": walked,
    }


def _mean_of_others(moves: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return the mean move of the other assets at each row's moment, (N,); 0 without any."""
    known = np.isfinite(moves)
    own = np.where(known, moves, 0.0)
    total, count = np.bincount(moment, own), np.bincount(moment, known)
    return (total[moment] - own) / np.maximum(count[moment] - known, 1)


def _coverage(planted: Planted, proposed: pl.DataFrame) -> float | None:
    """Return the share of the truth that lies within the proposed intervals; None without any of some width."""
    true = planted.truth.with_columns(pl.col("asset").cast(pl.String))
    true = true.unpivot(index=["asset", "timestamp"], on=list(PRICES), variable_name="column", value_name="truth")
    own = planted.labels.select(pl.col("asset").cast(pl.String), "timestamp")
    wide = proposed.filter(pl.col("high") > pl.col("low")).join(own, on=["asset", "timestamp"], how="semi")
    inside = wide.join(true, on=["asset", "timestamp", "column"]).select(
        pl.col("truth").is_between(pl.col("low"), pl.col("high"))
    )
    return None if inside.is_empty() else float(inside.to_series().mean())  # pyright: ignore[reportArgumentType]


def repair_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of repairs, a line per kind: sums and means over the seeds.

    Args:
        rows: of `measure_repairs`, of some seeds.
    """
    ways = ("repair", "last", "interpolation", "neighbours", "peers")
    heads = ("episodes", "altered", "exact", *ways, "in interval")
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"median error of the wrong prices in %, mean over {seeds} seeds; below the line: real moves",
        " " * 12 + "".join(f"{name:>{_CELL}}" for name in heads),
    ]
    table = pl.DataFrame(rows, infer_schema_length=None)
    for errors in (True, False):
        for (kind,), part in table.filter(is_error=errors).group_by("kind", maintain_order=True):
            cells = [f"{part[name].sum()}" for name in ("episodes", "altered", "exact")]
            cells += [_percent(part[name], 3) if errors else "-" for name in ways]
            cells.append(_percent(part["coverage"], 0) if errors else "-")
            lines.append(f"{kind:<12}" + "".join(f"{cell:>{_CELL}}" for cell in cells))
        lines += ["-" * len(lines[1])] if errors else []
    return lines


def _percent(values: pl.Series, digits: int) -> str:
    mean = values.mean()
    return "-" if mean is None else f"{100 * float(mean):.{digits}f}"  # pyright: ignore[reportArgumentType]


def main(page: Path) -> None:
    """Measure all seeds and write the table into a page.

    Args:
        page: Markdown with the marks of `refold.studies.pages`.
    """
    data = build_data(compose_settings(["experiment=scorers"]))
    data.setup()
    bars = part_bars(data.source.load(), data.recipe)["test"]
    fill_page(page, "\n".join(repair_lines([row for seed in SEEDS for row in measure_repairs(bars, seed)])))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
