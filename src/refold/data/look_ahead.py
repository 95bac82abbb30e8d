"""Test on training rows that a feature looks at no later bar and no further back than it says.

A feature is computed on some rows, and again on parts of them: cut after a random row, with other numbers after it, and
begun at a random row. A value that changes depends on rows that it must not depend on.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from refold.data.bars.features import Feature
from refold.data.feature_table import compute_features
from refold.errors import DataError

ROWS = 2_000
"""Rows that features are tested on, beyond their look-back, from each of `STRETCHES` places."""

STRETCHES = 4
"""Places in the training rows."""

CUTS = 6
"""Random rows at which the rows of a place are cut, and begun."""

_ROUNDING = 1e-7
"""Largest relative difference of equal values: trailing sums are not rounded alike from another beginning."""


class LookAheadTest:
    """Test the features of a table that are expressions of a user.

    Args:
        seed: of the places and cuts.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.left = STRETCHES

    def run(self, bars: pl.DataFrame, features: Sequence[Feature], run: np.ndarray, train: np.ndarray) -> None:
        """Test features on a few stretches of training rows; after `STRETCHES` of them nothing more is tested.

        Args:
            bars: (N rows) sorted by asset, then time.
            features: of the table; all but a user's own expressions are passed over, since Refold's tests cover them.
            run: (N,) int, number of the unbroken run of each bar.
            train: (N,) bool, whether a row is one to train on.

        Raises:
            DataError: a value depends on later rows, or on more rows than the look-back of its feature. It names the
                feature and the first such row.
        """
        tested = [feature for feature in features if feature.tested]
        if not tested or not self.left:
            return
        longest = max(feature.lookback for feature in tested)
        for first, count in self._stretches(run, train, ROWS + longest):
            rows = bars.slice(first, count)
            for feature in tested:
                self._test(rows, feature)

    def _stretches(self, run: np.ndarray, train: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
        """Yield first row and number of rows of some stretches of training rows, each of one run."""
        borders = np.flatnonzero(np.diff(run) | np.diff(train)) + 1
        starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(run)]])
        kept = train[starts] & (ends - starts > 1)
        starts, lengths = starts[kept], (ends - starts)[kept]
        long_first = np.argsort(-lengths, kind="stable")[: self.left]
        for place in long_first:
            self.left -= 1
            count = min(int(lengths[place]), longest)
            first = int(starts[place]) + int(self.generator.integers(lengths[place] - count + 1))
            yield first, count

    def _test(self, rows: pl.DataFrame, feature: Feature) -> None:
        whole = _values(rows, feature)
        ahead: list[tuple[int, str]] = []
        back: list[tuple[int, int]] = []
        for cut in self.generator.integers(1, rows.height, size=CUTS).tolist():
            for part, how in ((rows.head(cut), "without the rows"), (self._changed(rows, cut), "with other numbers")):
                differ = np.flatnonzero(_unlike(whole[:cut], _values(part, feature)[:cut]))
                ahead += [(int(differ[0]), f"{how} from {rows['timestamp'][cut]} on")] if len(differ) else []
            begun = _values(rows.slice(cut), feature)
            skipped = feature.lookback - 1
            differ = np.flatnonzero(_unlike(whole[cut + skipped :], begun[skipped:]))
            back += [(cut + skipped + int(differ[0]), cut)] if len(differ) else []
        if ahead:
            row, how = min(ahead)
            raise DataError(
                f"data.features has {feature.name}, which looks ahead: its value at {_place(rows, row)} is another "
                f"{how}. A value may depend on its own row and earlier ones"
            )
        if back:
            row, begin = min(back)
            raise DataError(
                f"data.features has {feature.name} with a look-back of {feature.lookback}; its value at "
                f"{_place(rows, row)} depends on earlier rows than those: without the rows before "
                f"{rows['timestamp'][begin]} it is another. Give it a larger lookback, or one that ends"
            )

    def _changed(self, rows: pl.DataFrame, cut: int) -> pl.DataFrame:
        """Return the rows with other numbers from one on: far larger and smaller ones, of both signs."""
        numbers = [name for name, dtype in rows.schema.items() if dtype.is_float()]
        factor = pl.Series(self.generator.choice([-1e3, -10.0, 1e-3, 1e3], size=rows.height))
        after = pl.int_range(pl.len()) >= cut
        return rows.with_columns(
            pl.when(after).then(pl.col(name) * factor + factor).otherwise(name).alias(name) for name in numbers
        )


def _values(rows: pl.DataFrame, feature: Feature) -> np.ndarray:
    return compute_features(rows, [feature], np.zeros(rows.height, dtype=np.int64)).to_series().to_numpy()


def _unlike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mark values that differ by more than rounding; empty ones are alike."""
    size = np.nanmedian(np.abs(one)) if np.isfinite(one).any() else 0.0
    return ~np.isclose(one, other, rtol=_ROUNDING, atol=_ROUNDING * max(size, 1e-300), equal_nan=True)


def _place(rows: pl.DataFrame, row: int) -> str:
    return f"{rows['asset'][row]} {rows['timestamp'][row]}"
