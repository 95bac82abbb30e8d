"""Training windows with planted errors as input and the clean windows as target, as a denoising autoencoder has them.

Letters: N rows of a series, F features.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, more_than
from refold.data.planted import errors_to_learn, plant, usable_kinds, with_nulls
from refold.data.recipe import Recipe
from refold.data.unsplit import unsplit_series
from refold.data.windows.corruption import Corruption
from refold.data.windows.scaler import Scaler
from refold.data.windows.views import Series
from refold.errors import DataError

_COPIES = 32452843
"""Number among those that seed the errors of a copy, so that no other part of a run draws the same."""

log = logging.getLogger("refold")


class PlantedCopies(Corruption):
    """Cut the windows that the model sees from a copy of the training bars with errors that feeds are known for.

    There are some copies, each with errors of its own, and each batch is cut from one of them. A copy is made when it
    is first asked for, and kept: it takes as much memory as the series.

    Args:
        kinds: key -> kind; None leaves one out. All must be errors: of a real move the target would be wrong.
        per_thousand: episodes of each kind per 1,000 bars of a copy, above 0.
        copies: at least 1.

    Raises:
        ValueError: there is no kind, one is a real move, or a check of the data would find it before the model.
    """

    reads_bars = True

    @checked("data.corruption")
    def __init__(
        self,
        *,
        kinds: Mapping[str, Any],
        per_thousand: Annotated[float, more_than(0)],
        copies: Annotated[int, at_least(1)],
    ) -> None:
        if real := next((kind.name for kind in kinds.values() if kind is not None and not kind.is_error), None):
            raise ValueError(f"data.corruption.kinds has {real!r}, a real move; its kinds must be errors")
        self.kinds = errors_to_learn(kinds, "data.corruption", "model")
        self.per_thousand = per_thousand
        self.copies = copies
        self._made: dict[int, Series] = {}

    def prepare(self, bars: pl.DataFrame, recipe: Recipe, scaler: Scaler, series: Series, seed: int) -> None:
        self.bars, self.scaler, self.clean, self.seed = bars, scaler, series, seed
        self.recipe = replace(recipe, checks=recipe.checks.when_scoring())
        self.usable, left_out = usable_kinds(self.kinds, bars, recipe.checks.kind)
        if left_out:
            log.warning("data.corruption.kinds: left out, since the bars cannot have them: %s", ", ".join(left_out))
        if not self.usable:
            raise DataError(f"data.corruption.kinds has no error that the bars can have: {', '.join(left_out)}")
        self._made.clear()

    def series(self, clean: Series, generator: np.random.Generator) -> Series:
        number = int(generator.integers(self.copies))
        if number not in self._made:
            self._made[number] = self._copy(number)
        made = self._made[number]
        if made.values.device != clean.values.device:  # the series was moved to a GPU since
            made = self._made[number] = made.to(clean.values.device)
        return made

    def _copy(self, number: int) -> Series:
        """Plant into a copy of the training bars, and put its features in the place of theirs in the clean series."""
        planted = plant(
            self.bars,
            self.usable,
            per_thousand=self.per_thousand,
            warm_up=max(1, self.recipe.bars_before),
            generator=np.random.default_rng([self.seed, number, _COPIES]),
            table=self.recipe.checks.kind,
            key="data.corruption",
        )
        made = unsplit_series(with_nulls(planted.bars), self.recipe, self.scaler).series
        ours, theirs = _rows_of_both(self.clean, made)
        values = self.clean.values.cpu().clone()
        values.numpy()[ours] = made.values.numpy()[theirs]
        return replace(self.clean, values=values)


def _rows_of_both(one: Series, other: Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two series that are of the same asset and time, and present in both."""
    tables = []
    for name, series in (("one", one), ("other", other)):
        asset = np.searchsorted(series.asset_starts, np.arange(len(series.times)), side="right") - 1
        names = pl.Series("asset", series.asset_names, dtype=pl.String).gather(asset)
        table = pl.DataFrame([names, pl.Series("time", series.times)]).with_row_index(name)
        tables.append(table if series.present is None else table.filter(pl.Series(series.present.cpu().numpy())))
    both = tables[0].join(tables[1], on=["asset", "time"])
    return both["one"].to_numpy(), both["other"].to_numpy()
