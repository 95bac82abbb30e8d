"""Test whether the bars that a run judges are still like those of validation, one block of bars after the other.

A block's mean rank, less what the blocks before it let expect, is its surprise. A surprise is ranked among those of
validation and those seen since: a conformal p-value. A jumper bets against these p-values being uniform, and Shiryaev
and Roberts' statistic adds up its gains from every possible moment of change on (Vovk et al. 2021, "Retrain or not
retrain"). While the surprises are exchangeable, whatever their distribution, that statistic grows by one per block on
average, so it passes c no sooner than after c blocks on average. The bars of a market are not quite exchangeable, even
so; docs/drift.md measures what is left of the promise.

Letters: N bars, A assets and the pool of all of them, F features, C = 1 + F values of a bar, S = 1 + 2 F streams.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal
from zlib import crc32

import numpy as np
import polars as pl

from refold.bounds import checked, more_than
from refold.scoring.drift_reference import BLOCK_BARS, QUANTILES, SLOW, Reference, expected_means

DriftState = Literal["stable", "watch", "retrain"]
STATES: tuple[DriftState, ...] = ("stable", "watch", "retrain")

ALL = "all assets"
"""Name of the pool in tables."""

BETS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
"""Slopes of the jumper's bets: 1 + slope (p - 1/2) is what a unit of its capital becomes."""

JUMP = 0.01
"""Share of the capital that is spread over all bets after each block, as Vovk et al. 2021 choose it."""

RECENT = 0.04
"""Weight of the newest block in the mean ranks that are shown: they look back over some 250 bars."""

LARGEST = 1e12
"""Blocks at which the gain stops to grow."""

NEVER = np.iinfo(np.int64).min
"""Number of the open block, or time of a change, where there is none."""


class DriftLimits:
    """Say how rarely `watch` and `retrain` may be said of an asset whose bars are like those of validation.

    Args:
        watch_years: years of an asset's bars between two false `watch`, on average and at least.
        retrain_years: the same of `retrain`.
    """

    @checked("drift")
    def __init__(
        self, *, watch_years: Annotated[float, more_than(0)], retrain_years: Annotated[float, more_than(0)]
    ) -> None:
        if retrain_years < watch_years:
            raise ValueError(
                f"drift.retrain_years is {retrain_years}; it must be at least drift.watch_years, which is {watch_years}"
            )
        self.watch_years = watch_years
        self.retrain_years = retrain_years


class DriftTest:
    """Test the bars of any number of assets against validation, one by one or many at a time, in bounded memory.

    `retrain` stays once it is said; `watch` goes when the gain does. Bars of a block that is over count no more.

    Args:
        reference: of validation; it is not changed.
        limits: how rarely false alarms may come.
    """

    arrays = (
        "gaps",
        "capital",
        "gain",
        "last",
        "slow",
        "recent",
        "block",
        "total",
        "count",
        "closed",
        "said",
        "since",
    )
    """Attributes that bars change: the state."""

    def __init__(self, reference: Reference, limits: DriftLimits) -> None:
        self.reference = reference
        self.limits = limits
        A, S = reference.gaps.shape[:2]
        self.rows = {name: row for row, name in enumerate(reference.names)}
        self.tested = reference.tested
        self.gaps = reference.gaps.copy()
        self.capital = np.full((A, S, len(BETS)), 1 / len(BETS))
        self.gain = np.zeros((A, S))
        self.last, self.slow, self.recent = (np.full((A, S), float(QUANTILES)) for _ in range(3))
        self.block = np.full(A, NEVER)
        self.total = np.zeros((A, S), dtype=np.int64)
        self.count, self.closed, self.said = (np.zeros(A, dtype=np.int64) for _ in range(3))
        self.since = np.full(A, NEVER)
        self._weights = reference.weights[[0] * (A - 1) + [1]]
        self._shares = _shares(self.tested)
        self._seeds = np.array([crc32(name.encode()) for name in (*reference.names, ALL)], dtype=np.uint64)
        self._pending: dict[int, tuple[np.ndarray, int]] = {}

    # ---- bars --------------------------------------------------------------------------------------------------------

    def push(self, assets: list[str], times: np.ndarray, values: np.ndarray) -> None:
        """Take the newest bars of some assets, at most one of each.

        Args:
            assets: N names.
            times: (N,) int64, microseconds, as those of validation.
            values: (N, C), score and features; bars with NaN are left out.
        """
        kept = np.flatnonzero(np.isfinite(values).all(axis=1))
        if not len(kept):
            return
        rows = np.array([self.rows.get(assets[n], -1) for n in kept])  # the pool ranks assets that it does not know
        times = times[kept]
        ranks, block = self.reference.ranks(rows, values[kept]), times // self.reference.span
        own = rows >= 0
        self._advance(rows[own], block[own], ranks[own], np.ones(int(own.sum()), dtype=np.int64))
        for number in np.unique(block):
            here = ranks[block == number]
            self._advance(np.array([-1]), np.array([number]), here.sum(axis=0)[None], np.array([len(here)]))

    def add(self, asset: str, times: np.ndarray, values: np.ndarray) -> None:
        """Take many bars of one asset in order of time; `finish` adds them to the pool.

        Args:
            asset: its name.
            times: (N,) int64, none before those added earlier.
            values: (N, C), score and features; bars with NaN are left out.
        """
        kept = np.isfinite(values).all(axis=1)
        times, values, row = times[kept], values[kept], self.rows.get(asset, -1)
        if not len(times):
            return
        block = times // self.reference.span
        starts = np.flatnonzero(np.diff(block, prepend=block[0] - 1))
        totals = np.add.reduceat(self.reference.ranks(np.full(len(times), row), values), starts)
        for number, total, count in zip(block[starts], totals, np.diff(np.append(starts, len(block))), strict=True):
            if row >= 0:
                self._advance(np.array([row]), np.array([number]), total[None], np.array([count]))
            before, bars = self._pending.get(int(number), (0, 0))
            self._pending[int(number)] = (before + total, bars + int(count))

    def finish(self) -> None:
        """Test all assets together, after the last bar that `add` gets."""
        for number, (total, count) in sorted(self._pending.items()):
            self._advance(np.array([-1]), np.array([number]), total[None], np.array([count]))
        self._pending = {}

    def of_assets(self, names: Iterable[str]) -> "DriftTest":
        """Return a fresh test of some assets alone, which another process may give their bars to; see `merge`.

        Args:
            names: of the assets; those that validation does not know are ranked among all, as they are here.
        """
        known = [name for name in names if name in self.rows]
        rows = [*(self.rows[name] for name in known), -1]
        own = {name: getattr(self.reference, name)[rows] for name in ("grid", "fewest", "edges", "gaps")}
        return DriftTest(replace(self.reference, names=tuple(known), **own), self.limits)

    def merge(self, other: "DriftTest") -> None:
        """Take the assets of a test that `of_assets` gave, and what it keeps for all assets together.

        Args:
            other: which got all bars of its assets by `add`, and has not been finished.
        """
        for name, row in other.rows.items():
            for array in self.arrays:
                getattr(self, array)[self.rows[name]] = getattr(other, array)[row]
        for number, (total, bars) in other._pending.items():
            before, known = self._pending.get(number, (0, 0))
            self._pending[number] = (before + total, known + bars)

    def _advance(self, row: np.ndarray, block: np.ndarray, total: np.ndarray, count: np.ndarray) -> None:
        """Add ranks to the open blocks of some different rows, and test the blocks that are over by that.

        Args:
            row: (n,) int.
            block: (n,) number of each one's block.
            total: (n, S) sums of ranks.
            count: (n,) bars.
        """
        newer = block > self.block[row]
        if newer.any():
            over = row[newer]
            full = self.tested[over].any(axis=1) & (self.count[over] >= self.reference.fewest[over])
            if full.any():
                self._close(over[full])
            self.block[over], self.total[over], self.count[over] = block[newer], 0, 0
        same = block == self.block[row]
        self.total[row[same]] += total[same]
        self.count[row[same]] += count[same]

    # ---- the test ----------------------------------------------------------------------------------------------------

    def _close(self, row: np.ndarray) -> None:
        """Rank the open blocks of some rows (n,), and bet on them."""
        mean = self.total[row] / self.count[row, None]  # (n, S)
        surprise = (mean - expected_means(self._weights[row], self.last[row], self.slow[row]))[:, :, None]
        edges, gaps = self.reference.edges[row], self.gaps[row]  # (n, S, E), (n, S, E + 1)
        first, last = (edges < surprise).sum(axis=2)[:, :, None], (edges <= surprise).sum(axis=2)[:, :, None]
        upto = np.concatenate([np.zeros((*mean.shape, 1)), np.cumsum(gaps, axis=2)], axis=2)
        below, upper = (np.take_along_axis(upto, place, axis=2)[:, :, 0] for place in (first, last + 1))
        p = 1 - (below + self._uniform(row) * (upper - below)) / np.maximum(upto[:, :, -1], 1)
        tested = self.tested[row]
        capital = self.capital[row] * (1 + BETS * (p[:, :, None] - 0.5))
        factor = capital.sum(axis=2)
        grown = np.minimum((self.gain[row] + 1) * factor, LARGEST)
        self.gain[row] = np.where(tested, grown, 0)
        self.capital[row] = (1 - JUMP) * capital / factor[:, :, None] + JUMP / len(BETS)
        np.put_along_axis(gaps, first, np.take_along_axis(gaps, first, axis=2) + tested[:, :, None], axis=2)
        self.gaps[row] = gaps
        self.last[row] = mean
        self.slow[row] += SLOW * (mean - self.slow[row])
        self.recent[row] += RECENT * (mean - self.recent[row])
        self.closed[row] += 1
        years = self.once_in_years(row)
        said = (years >= self.limits.watch_years).astype(np.int64) + (years >= self.limits.retrain_years)
        said[self.said[row] == 2] = 2
        self.since[row] = np.where(said != self.said[row], (self.block[row] + 1) * self.reference.span, self.since[row])
        self.said[row] = said

    def _uniform(self, row: np.ndarray) -> np.ndarray:
        """Draw the numbers in [0, 1) that break ties, (n, S): the same ones for the same block, whatever else comes."""
        stream = np.arange(self.gain.shape[1], dtype=np.uint64)
        with np.errstate(over="ignore"):
            x = (self._seeds[row, None] << np.uint64(32)) ^ (stream << np.uint64(20))
            x = x + (self.closed[row, None].astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53

    # ---- what is said ------------------------------------------------------------------------------------------------

    def once_in_years(self, row: np.ndarray) -> np.ndarray:
        """Return once in how many years bars like those of validation look as changed as some rows (n,) do.

        The score has one half of the say, the features the other.
        """
        blocks = (self.gain[row] * self._shares[row]).sum(axis=1)
        return blocks * BLOCK_BARS / self.reference.bars_per_year

    def of(self, asset: str) -> DriftState | None:
        """Return the state of an asset: its own, or that of all assets where it is not tested; None if neither is."""
        row = self.rows.get(asset, -1)
        row = row if self.tested[row].any() else -1
        return STATES[self.said[row]] if self.tested[row].any() else None

    @property
    def pooled(self) -> DriftState | None:
        """The state of all assets together; None if validation has too few bars to test them."""
        return self.of(ALL)

    def moved(self, asset: str = ALL) -> str | None:
        """Say what has changed most of an asset, or of all, such as "score higher"; None while nothing is unusual."""
        row = self.rows.get(asset, -1)
        if not self.said[row]:
            return None
        stream = int((np.abs(self.recent[row] - QUANTILES) * self.tested[row]).argmax())
        name, high, low = self.reference.streams[stream]
        return f"{name} {high if self.recent[row, stream] > QUANTILES else low}"

    def table(self, dtype: pl.DataType) -> pl.DataFrame:
        """Return a row for all assets together and one for each that is tested.

        Args:
            dtype: of the timestamps.

        Returns:
            asset, state, since (when that state began; null of one that has always been), moved (what has changed
            most), once_in_years, score_rank (mean rank of the last scores among those of validation: 0.5 as there).
        """
        rows = [row for row in (len(self.tested) - 1, *range(len(self.tested) - 1)) if self.tested[row].any()]
        names = [*self.reference.names, ALL]
        since = [None if self.since[row] == NEVER else int(self.since[row]) for row in rows]
        return pl.DataFrame(
            {
                "asset": pl.Series([names[row] for row in rows], dtype=pl.String),
                "state": pl.Series([STATES[self.said[row]] for row in rows], dtype=pl.String),
                "since": pl.Series(since, dtype=pl.Int64)
                .cast(pl.Datetime("us", getattr(dtype, "time_zone", None)))
                .cast(dtype),
                "moved": pl.Series([self.moved(names[row]) for row in rows], dtype=pl.String),
                "once_in_years": self.once_in_years(np.array(rows, dtype=np.int64)),
                "score_rank": self.recent[rows, 0] / (2 * QUANTILES),
            }
        )

    # ---- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Return what bars have changed, as plain arrays; call it when `finish` has had all that `add` got."""
        return {name: getattr(self, name).copy() for name in self.arrays}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: it is of other assets, features or types.
        """
        for name in self.arrays:
            own, given = getattr(self, name), np.asarray(state[name])
            if own.shape != given.shape or own.dtype != given.dtype:
                raise ValueError(f"drift.{name} is {given.dtype} {given.shape}; it must be {own.dtype} {own.shape}")
        for name in self.arrays:
            setattr(self, name, np.asarray(state[name]).copy())


def count_states(table: pl.DataFrame) -> dict[str, Any]:
    """Return what scoring.json and the log say of a table of states.

    Args:
        table: as `DriftTest.table` returns it.

    Returns:
        state of all assets together (None if they are not tested), numbers of assets by state, and the rows that are
        not stable.
    """
    pool, assets = table.filter(asset=ALL), table.filter(pl.col("asset") != ALL)
    told = table.filter(pl.col("state") != "stable").with_columns(pl.col("since").cast(pl.String))
    return {
        "state": pool["state"][0] if pool.height else None,
        "assets": {state: int((assets["state"] == state).sum()) for state in STATES},
        "moved": told.to_dicts(),
    }


def drift_words(facts: Mapping[str, Any]) -> str:
    """Say in a line what `count_states` counts.

    Returns:
        Such as "retrain since 2012-05-01 (score higher); of 5 assets 3 stable, 1 watch, 1 retrain".
    """
    found = next((row for row in facts["moved"] if row["asset"] == ALL), None)
    told = facts["state"] or "all assets together are not tested"
    told += f" since {found['since']} ({found['moved']})" if found else ""
    counts = ", ".join(f"{count:,} {state}" for state, count in facts["assets"].items() if count)
    return f"{told}; of {sum(facts['assets'].values()):,} assets {counts}" if counts else told


def _shares(tested: np.ndarray) -> np.ndarray:
    """Divide the say among the tested streams (A, S) of each row: half for the score, half for the features."""
    score, features = tested[:, :1], tested[:, 1:]
    count = features.sum(axis=1, keepdims=True)
    own = np.where(score, np.where(count > 0, 0.5, 1.0), 0.0)
    return np.concatenate([own, features * (1 - own) / np.maximum(count, 1)], axis=1)
