"""Iterate over batches of windows in an order that is a pure function of seed and epoch, on one process or several."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refold.data.windows.corruption import Corruption
from refold.data.windows.permutation import permute
from refold.data.windows.views import Ahead, Batch, Windows
from refold.data.windows.weighting import Draws
from refold.errors import DataError

_CORRUPTION = 7  # sets its random numbers apart from those of lengths and orders
_BLOCK = 1 << 16  # positions whose order is computed at once: half a megabyte, and its cost spread over many batches


class WindowLoader:
    """Iterate over `Batch`es. A batch is one gather, so there are no workers and nothing is collated.

    Process r of N takes every N-th window of the global batch from the r-th on, so the windows that are trained on in a
    step do not depend on N. With `shuffle`, the incomplete last batch is dropped unless it is the only one; without,
    each window comes exactly once, and processes may have unequal numbers of batches.

    With `corruption`, a batch also has its windows as the model gets to see them.

    With `shortest`, each batch has a length of its own, and takes the same bars of each of its windows. With
    `shuffle_bars`, the bars of each window come in another order (the permutation of Um et al. 2017, of single bars).
    Length, bars and orders are drawn from seed, epoch and number of the batch, so all processes agree and a resumed run
    repeats them.

    `state_dict` counts the batches that were yielded; a loader that loads it starts with the next one. The count is of
    global batches, so a job may continue with another number of processes.

    Args:
        windows: windows of one part.
        batch_size: windows per step over all processes, at least 1.
        shuffle: True draws a new order in each epoch.
        seed: seed of that order, of lengths and of the orders of bars.
        shortest: bars of the shortest batch, at least 1; None gives all batches the windows' length.
        shuffle_bars: True gives the bars of a window in a random order.
        corruption: what of training windows is hidden; None: nothing.
        draws: how often the windows of each asset come in an epoch; None yields each window once.
        world_size: processes of the job.
        rank: number of this process, from 0.

    Raises:
        DataError: a batch has fewer windows than there are processes.
    """

    batch_sampler = None  # Lightning reads it wherever there is a `sampler`

    def __init__(
        self,
        windows: Windows,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        shortest: int | None = None,
        shuffle_bars: bool = False,
        corruption: Corruption | None = None,
        draws: Draws | None = None,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        self.windows = windows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.shortest = shortest
        self.shuffle_bars = shuffle_bars
        self.corruption = corruption
        self.draws = draws
        self.size = len(windows) if draws is None else len(draws)  # windows of an epoch
        self.world_size = world_size
        self.rank = rank
        self.epoch = 0
        self._yielded = 0
        self._start_at = 0
        smallest = min(batch_size, self.size)
        if shuffle and smallest < world_size:
            what = f"data.batch_size is {batch_size}" if batch_size <= self.size else f"train has {smallest} windows"
            raise DataError(f"{what}; there must be at least one window for each of the {world_size} processes")

    def __len__(self) -> int:
        """Count the batches of this process in an epoch."""
        full, rest = divmod(self.size, self.batch_size)
        if self.shuffle:
            return max(full, 1)
        # of an incomplete batch, processes beyond its length get nothing; so too of full ones smaller than the job
        return full * (self.rank < self.batch_size) + (rest > self.rank)

    @property
    def sampler(self) -> "WindowLoader":
        """Return the loader itself: Lightning looks for `sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration, and forget a position within another epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        if epoch != self.epoch:
            self._start_at = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, and the number of batches that were yielded in it."""
        return {"epoch": self.epoch, "batches": self._yielded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where `state_dict` was taken, or at the beginning if that epoch was complete.

        Args:
            state: epoch and batches.
        """
        self.epoch = state["epoch"]
        self._start_at = state["batches"] if state["batches"] < len(self) else 0

    def __iter__(self) -> Iterator[Batch]:
        # the body of a generator starts at the first `next`, after Lightning has called set_epoch
        first, self._start_at = self._start_at, 0
        self._yielded = first
        for number in range(first, len(self)):
            self._yielded = number + 1  # before the yield: whoever holds the batch counts it as done
            self.windows.series.let_pages_go()
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """Gather this process's share of a batch of this epoch.

        Args:
            number: number of the batch, in [0, len).
        """
        start = number * self.batch_size
        everyone = self._order(start, min(start + self.batch_size, self.size))
        mine = np.ascontiguousarray(everyone[self.rank :: self.world_size])
        windows = self._shortened(number)
        mask, full = windows.mask(mine), windows.mask(everyone)
        weight = self._share(mask, full, len(mine), len(everyone))
        values = windows.gather(mine)
        given = generator = None
        if self.corruption is not None:
            generator = np.random.default_rng([self.seed, self.epoch, number, windows.window_size, _CORRUPTION])
            given = self._spoilt(windows, values, mine, generator)
        if self.shuffle_bars:
            order = self._orders(number, len(everyone), windows.window_size)[self.rank :: self.world_size]
            order = torch.from_numpy(order).to(values.device)
            values = values.take_along_dim(order[..., None], dim=1)
            given = None if given is None else given.take_along_dim(order[..., None], dim=1)
            mask = mask if mask is None else mask.take_along_dim(order, dim=1)
        if given is not None and generator is not None:
            given = self._hidden(given, len(everyone), generator)
        return Batch(values, mask, torch.from_numpy(mine), weight, self._ahead(windows, mine, everyone), given)

    def _spoilt(self, windows: Windows, values: Tensor, mine: np.ndarray, generator: np.random.Generator) -> Tensor:
        """Cut this process's windows (B, T, F) from the series that the corruption chooses for the batch."""
        assert self.corruption is not None
        series = self.corruption.series(windows.series, generator)
        return values if series is windows.series else windows.of(series).gather(mine)

    def _hidden(self, given: Tensor, count: int, generator: np.random.Generator) -> Tensor:
        """Hide bars of this process's windows (B, T, F) of a batch of so many over all processes."""
        assert self.corruption is not None
        hidden = self.corruption.hidden(count, given.shape[1], generator)
        if hidden is None:
            return given
        hidden = torch.from_numpy(hidden[self.rank :: self.world_size])
        return given.masked_fill(hidden.to(given.device).unsqueeze(2), 0.0)

    def _ahead(self, windows: Windows, mine: np.ndarray, everyone: np.ndarray) -> Ahead | None:
        """Gather the bars after this process's share of a batch."""
        if not windows.horizon:
            return None
        bars, mask = windows.ahead(mine)
        full = mask if self.world_size == 1 else windows.ahead(everyone)[1]
        return Ahead(bars, mask, self._share(mask, full, len(mine), len(everyone)))

    def _share(self, mask: Tensor | None, full: Tensor | None, mine: int, everyone: int) -> float:
        """Weigh this process's mean: its present bars, or windows, times the processes over those of the batch."""
        local, total = float(mine), float(everyone)
        if mask is not None and full is not None:
            local, total = float(mask.sum()), float(full.sum())
        return local * self.world_size / total if total else 0.0

    def _orders(self, number: int, count: int, bars: int) -> np.ndarray:
        """Draw an order of the bars of each window of a batch, over all processes: (count, bars) int64."""
        generator = np.random.default_rng([self.seed, self.epoch, number, bars])
        return generator.random((count, bars)).argsort(axis=1)

    def _shortened(self, number: int) -> Windows:
        """Cut the windows down to the bars that a batch of this epoch takes."""
        if self.shortest is None:
            return self.windows
        generator = np.random.default_rng([self.seed, self.epoch, number])
        bars = int(generator.integers(self.shortest, self.windows.window_size + 1))
        return self.windows.shortened(int(generator.integers(self.windows.window_size - bars + 1)), bars)

    def _order(self, start: int, end: int) -> np.ndarray:
        """Return the window numbers at positions [start, end) of this epoch's order."""
        if not self.shuffle:
            return np.arange(start, end)
        numbers = self._shuffled(start, end)
        return numbers if self.draws is None else self.draws.windows(numbers, self.epoch)

    def _shuffled(self, start: int, end: int) -> np.ndarray:
        """Return positions [start, end) of a random permutation of the epoch's draws."""
        blocks = range(start // _BLOCK, (end - 1) // _BLOCK + 1)
        # a slice of each: the usual batch lies in one block, and a copy of all of it would cost as much as the gather
        pieces = [self._block(block)[max(0, start - block * _BLOCK) : end - block * _BLOCK] for block in blocks]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _block(self, block: int) -> np.ndarray:
        key = (self.seed, self.epoch, block)
        if getattr(self, "_cached_key", None) != key:
            positions = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.size))
            self._cached = permute(positions, self.size, seed=self.seed, epoch=self.epoch)
            self._cached_key = key
        return self._cached
