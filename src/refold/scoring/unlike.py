"""Refuse bars that are unlike those that a run was trained on, so that its model cannot judge them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from refold.data.bars.entries import find_feature
from refold.data.bars.table import NOT_VALUES
from refold.data.long.ordered import Cut, OrderedBars
from refold.errors import DataError
from refold.scoring.detector import Detector
from refold.scoring.rarity import listed
from refold.scoring.scored import seconds

log = logging.getLogger("refold.score")

SLICES, SLICE = 20, 5_000
"""Of a table with more rows than their product, so many slices of so many rows are looked at where a sample will do."""

SAME_FREQUENCY = 1.5
"""By what factor the usual time between two bars may differ from that of the run's own."""


def refuse_unlike(detector: Detector, bars: OrderedBars, where: str) -> None:
    """Refuse bars that the run's model cannot judge.

    Args:
        detector: of the run.
        bars: to be judged.
        where: what they are, for messages.

    Raises:
        DataError: columns or assets differ (the difference is listed), no asset has bars for a window, the bars are of
            another frequency, or an asset's price never moves.
    """
    recipe = detector.recipe
    features = [find_feature(entry) for entry in recipe.entries or ()]
    needed = list(dict.fromkeys(column for feature in features for column in feature.columns))
    present = [name for name in bars.schema if name not in NOT_VALUES]
    if missing := [name for name in needed if name not in present]:
        raise DataError(
            f"{where} has the columns {', '.join(present)}; the run's features {', '.join(recipe.features)} "
            f"are made of {', '.join(needed)}: missing {', '.join(missing)}"
        )
    if recipe.layout == "panel":
        _refuse_other_assets(detector, bars, where)
    series = recipe.checks.kind == "series"
    judged = needed if series else ["close" if "close" in present else needed[0]]
    shortest = recipe.window_size + recipe.bars_before
    longest = max(bars.assets.values())
    if longest < shortest:
        scale = f" and of data.scale=trailing, {recipe.scale_bars}" if recipe.scale_bars else ""
        raise DataError(
            f"{where} has at most {longest} bars of an asset; a window of data.window_size = "
            f"{recipe.window_size} bars needs {shortest} with the look-back of the features{scale}"
        )
    _refuse_constant(bars, judged, shortest, where)
    _refuse_other_frequency(detector, bars, where)


def _refuse_constant(bars: OrderedBars, columns: Sequence[str], shortest: int, where: str) -> None:
    """Refuse assets none of whose columns moves."""
    low, high = (pl.col(columns).name.prefix("low/"), pl.col(columns).name.prefix("high/"))
    ends = bars.bars.group_by("asset").agg(low.min(), high.max()).sort("asset").collect(engine="streaming")
    for row in ends.iter_rows(named=True):
        asset, count = row["asset"], bars.assets[row["asset"]]
        still = all(row[f"low/{name}"] == row[f"high/{name}"] for name in columns)
        if columns and still and count >= shortest:
            values = ", ".join(f"the {name} {row[f'low/{name}']:g}" for name in columns[:4])
            raise DataError(
                f"{where}: {asset} has {values} in all of its {count} bars; a constant "
                f"series cannot be judged: leave it out with data.source.table.assets"
            )


def warn_of_unknown(detector: Detector, bars: OrderedBars, where: str) -> None:
    """Log a warning with the assets that the run does not know: the measures of all assets together judge them.

    A single series without a column of assets is named after its file, or `asset` in a frame. That name says nothing
    of what it is, so that a run of one series judges another such file without a warning.

    Args:
        detector: of the run.
        bars: to be judged.
        where: what they are, for the message.
    """
    known = detector.validation.get("asset_names")
    if known is None:
        return
    unnamed = len(known) == len(bars.assets) == 1 and {"asset", Path(where).name.split(".")[0]} & set(bars.assets)
    if not unnamed and (unknown := set(bars.assets) - set(known)):
        log.warning(
            "%s has assets that the run was not trained on: %s; they are judged by what all its assets have in common",
            where, listed(unknown),
        )  # fmt: skip


def _refuse_other_assets(detector: Detector, bars: OrderedBars, where: str) -> None:
    first = f"/{detector.features[0]}"
    own = [column.removesuffix(first) for column in detector.columns[:: len(detector.features)]]
    missing, unknown = sorted(set(own) - set(bars.assets)), sorted(set(bars.assets) - set(own))
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise DataError(
            f"{where} does not have the {len(own)} assets of the run's panel: {'; '.join(parts)}. "
            f"data.source.table.assets chooses among those of a file"
        )


def _refuse_other_frequency(detector: Detector, bars: OrderedBars, where: str) -> None:
    own = detector.validation.get("bar_seconds", float("nan"))
    step = pl.col("timestamp").to_physical().diff().over("asset")
    step = pl.concat(bars.slice(cut.first, cut.end).select(step) for cut in sampled(bars)).to_series().median()
    if step is None or not own > 0:
        return
    usual = float(seconds(np.float64(cast("float", step)), bars.schema["timestamp"]))
    if usual == 0:
        raise DataError(
            f"{where} has more bars with equal times than with different ones, as a table of several assets has whose "
            f"names are not read: give their column as data.source.table.columns.asset, or leave out the repeated bars"
        )
    if not own / SAME_FREQUENCY < usual < own * SAME_FREQUENCY:
        raise DataError(
            f"{where} has a bar every {_duration(usual)}; the run was trained on one every {_duration(own)}: errors of "
            f"one frequency say nothing about another"
        )


def _duration(length: float) -> str:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if length >= size:
            return f"{length / size:g} {name}"
    return f"{length:g} seconds"


def sampled(bars: OrderedBars) -> list[Cut]:
    """Return cuts of all rows of a table; of a long one, slices that are spread evenly over it."""
    cuts = list(bars.cuts(SLICE))
    if bars.rows <= SLICES * SLICE:
        return cuts
    return [cuts[place] for place in np.linspace(0, len(cuts) - 1, SLICES).round().astype(int)]
