"""Plant kinds of errors, and of real moves, into a copy of bars: a pure function of the bars and a generator.

Letters: N bars given, M bars with errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from refold.data.bars.table import TableKind, value_columns
from refold.data.planted.kinds import Kind, PlantedBars
from refold.errors import DataError

SPACING = 5  # untouched bars of the same asset between two episodes, so that each has its own surroundings


@dataclass(frozen=True)
class Planted:
    """Bars with errors, and what is known of them.

    Attributes:
        bars: M bars, sorted by asset, then time.
        label: (M,) int64, 0 for an untouched bar, k for a bar of the k-th kind that was asked for, from 1.
        truth: M bars as they should be. It differs from the bars given where a move is real.
        factor: (M,) float64, by what an error multiplied the values of the bar (another unit) or those of all bars
            before it (a split); 1 elsewhere.
        labels: timestamp, asset and kind of each bar of an episode, also of bars that an episode removed. The label of
            a split and of a jump is the first bar after it.
    """

    bars: pl.DataFrame
    label: np.ndarray
    truth: pl.DataFrame
    factor: np.ndarray
    labels: pl.DataFrame


def errors_to_learn(kinds: Mapping[str, Kind | None], key: str, reader: str) -> list[Kind]:
    """List the chosen kinds; refuse a choice without an error, or with one that no model gets to see.

    Args:
        kinds: key -> kind; None leaves one out.
        key: of the setting, for messages.
        reader: what is to learn from the errors, for messages.

    Raises:
        ValueError: none of them is an error, or a check of the data finds one.
    """
    chosen = [kind for kind in kinds.values() if kind is not None]
    if not any(kind.is_error for kind in chosen):
        raise ValueError(f"{key}.kinds has no kind of error; it must have at least one, such as bad_tick")
    if found := next((kind.name for kind in chosen if not kind.passes_checks), None):
        raise ValueError(f"{key}.kinds has {found!r}, which the checks of the data find before any {reader}")
    return chosen


def with_nulls(bars: pl.DataFrame) -> pl.DataFrame:
    """Turn NaN, which planting leaves in empty cells, back into empty cells."""
    return bars.with_columns(pl.col(pl.Float64).fill_nan(None))


def usable_kinds(kinds: Sequence[Kind], bars: pl.DataFrame, table: TableKind) -> tuple[list[Kind], list[str]]:
    """Leave out the kinds that bars cannot have.

    Args:
        kinds: to plant.
        bars: canonical.
        table: whether they are prices, or a series of any numbers.

    Returns:
        The other kinds, and for each that is left out its name and why, such as "'wick' (no high, low)".
    """
    columns, assets = value_columns(bars.columns, table), bars["asset"].n_unique()
    why = {kind.name: kind.lacking(columns, assets) for kind in kinds}
    kept = [kind for kind in kinds if why[kind.name] is None]
    return kept, [f"{name!r} ({reason})" for name, reason in why.items() if reason is not None]


def plant(
    bars: pl.DataFrame,
    kinds: Sequence[Kind],
    *,
    per_thousand: float,
    warm_up: int,
    generator: np.random.Generator,
    table: TableKind = "prices",
    key: str = "evaluation",
) -> Planted:
    """Plant kinds into a copy of bars, and return it with what is known of it.

    Episodes do not touch each other, and none begins in an asset's first `warm_up` bars or reaches its last.

    Args:
        bars: canonical and free of errors.
        kinds: to plant; their names differ.
        per_thousand: episodes of each kind per 1,000 bars after the warm-up, over all assets; at least one is planted.
        warm_up: bars, at least 1.
        generator: source of every random number here.
        table: whether the bars are prices, or a series of any numbers.
        key: section of the settings that has `per_thousand`, for messages.

    Raises:
        DataError: a column is missing that a kind needs, there is no room, or a kind plants what a check would find.
    """
    bars = bars.sort("asset", "timestamp", maintain_order=True)
    names = value_columns(bars.columns, table)
    asset = bars["asset"].rle_id().to_numpy().astype(np.int64)
    for kind in kinds:
        if lacking := kind.lacking(names, int(asset.max(initial=-1)) + 1):
            raise DataError(f"the error {kind.name!r} cannot be planted: the data has {lacking}")
    columns = {name: bars[name].cast(pl.Float64).to_numpy().copy() for name in names}
    spoilt = PlantedBars(
        columns=columns,
        truth={name: values.copy() for name, values in columns.items()},
        factor=np.ones(bars.height),
        copies=np.ones(bars.height, dtype=np.int64),
        asset=asset,
        moment=bars["timestamp"].rank("dense").to_numpy().astype(np.int64),
        table=table,
        generator=generator,
    )
    first = np.searchsorted(asset, asset)  # (N,) first row of each row's asset
    number = np.arange(bars.height)
    eligible = number[number - first >= max(1, warm_up)]
    wanted = max(1, round(per_thousand * len(eligible) / 1000))
    free = np.ones(bars.height, dtype=bool)
    label = np.zeros(bars.height, dtype=np.int64)
    for place, kind in [(place, kind) for place, kind in enumerate(kinds, 1) for _ in range(wanted)]:
        rows = _find_room(kind, eligible, first, free, spoilt, key)
        _plant_one(kind, spoilt, slice(int(first[rows.start]), rows.start), rows, bars)
        free[max(0, rows.start - SPACING) : rows.stop + SPACING] = False
        label[rows] = place
    kept = np.repeat(number, spoilt.copies)
    known = label > 0
    called = pl.Series("kind", ["", *(kind.name for kind in kinds)], dtype=pl.String)[label[known]]
    return Planted(
        bars=_with(bars, spoilt.columns)[kept],
        label=label[kept],
        truth=_with(bars, spoilt.truth)[kept],
        factor=spoilt.factor[kept],
        labels=bars.filter(pl.Series(known)).select("timestamp", "asset").with_columns(called),
    )


def _with(bars: pl.DataFrame, columns: dict[str, np.ndarray]) -> pl.DataFrame:
    return bars.with_columns(pl.Series(name, values) for name, values in columns.items())


def _find_room(
    kind: Kind, eligible: np.ndarray, first: np.ndarray, free: np.ndarray, spoilt: PlantedBars, key: str
) -> slice:
    """Find rows for one more episode of a kind; raises DataError if there are none."""
    length = int(spoilt.generator.integers(kind.shortest, kind.longest + 1))
    known = np.all([np.isfinite(values) for values in spoilt.columns.values()], axis=0)  # masked bars have no values
    for start in spoilt.generator.permutation(eligible).tolist():
        end = start + length
        # one more bar of the asset after the last: an error that never ends looks like a move
        inside = end < len(free) and first[end] == first[start]
        if inside and free[start:end].all() and known[start - 1 : end].all() and kind.fits(spoilt, slice(start, end)):
            return slice(start, end)
    raise DataError(
        f"there is no room for one more {kind.name!r} of {length} bars in {len(eligible)} bars; lower "
        f"{key}.per_thousand, or give the part more bars in data.split"
    )


def _plant_one(kind: Kind, spoilt: PlantedBars, before: slice, rows: slice, bars: pl.DataFrame) -> None:
    """Plant one episode, and refuse a kind that a check would find; a real move changes the truth as well."""
    earlier = {} if kind.is_error else {name: values.copy() for name, values in spoilt.columns.items()}
    kind.plant(spoilt, before, rows)
    for name, values in earlier.items():
        moved = np.flatnonzero(spoilt.columns[name] != values)
        if spoilt.table == "prices":  # an earlier error may have scaled the bars, so what was done is done again
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = spoilt.columns[name][moved] / values[moved]
            spoilt.truth[name][moved] *= np.where(np.isfinite(ratio), ratio, 1)
        else:
            spoilt.truth[name][moved] += spoilt.columns[name][moved] - values[moved]
    if kind.passes_checks and (fault := _fault(spoilt, rows)):
        where = f"{bars['asset'][rows.start]} {bars['timestamp'][rows.start]}"
        raise DataError(
            f"the kind {kind.name!r} plants {fault} into the bar {where}, which a check of the data finds; plant what "
            f"passes data.checks"
        )


def _fault(spoilt: PlantedBars, rows: slice) -> str | None:
    """Name what a check would find in some rows, if anything."""
    columns = {name: values[rows] for name, values in spoilt.columns.items()}
    if not all(np.isfinite(values).all() for values in columns.values()):
        return "a value that is not finite"
    if spoilt.table == "series":
        return None
    if any((columns[name] <= 0).any() for name in spoilt.prices):
        return "a price of 0 or less"
    if "volume" in columns and (columns["volume"] < 0).any():
        return "a volume below 0"
    if {"high", "low"} <= columns.keys():
        inside = [columns[name] for name in ("open", "close", "high", "low") if name in columns]
        if (columns["low"] > np.min(inside, axis=0)).any() or (columns["high"] < np.max(inside, axis=0)).any():
            return "a low above or a high below a price"
    return None
