"""Batches of windows in an order that is a pure function of seed and epoch, for one process or one of several."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from refold.data.windows.permutation import permute
from refold.data.windows.views import Batch, Windows
from refold.data.windows.weighting import Draws
from refold.errors import DataError

_BLOCK = 1 << 16  # positions whose order is computed at once: half a megabyte, and its cost spread over many batches


class WindowLoader:
    """A sized iterable of `Batch`. A batch is one gather, so there are no workers and nothing is collated.

    Process r of N takes every N-th window of the global batch from the r-th on, so the windows that are trained on in a
    step do not depend on N. With `shuffle`, the incomplete last batch is dropped unless it is the only one; without,
    each window comes exactly once, and processes may have unequal numbers of batches.

    With `shortest`, each batch has a length of its own, and takes the same bars of each of its windows: both are drawn
    from seed, epoch and number of the batch, so all processes agree and a resumed run repeats them. So is, with
    `shuffle_bars`, an order for the bars of each window (the permutation of Um et al. 2017, of single bars).

    `state_dict` counts the batches that were handed out; a loader that loads it goes on with the next one. The count is
    of global batches, so a job may go on with another number of processes.

    Args: windows: of one part. batch_size: windows per step over all processes. shuffle: a new order in each epoch.
        seed: of that order and of lengths. shortest: bars of the shortest batch; None: all have the windows' length.
        shuffle_bars: whether the bars of a window come in a random order. draws: how often the windows of each asset
        come in an epoch; None: each once. world_size, rank: processes of the job, and which of them this is.
    Raises: DataError: a batch has fewer windows than there are processes.
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
        self.draws = draws
        self.size = len(windows) if draws is None else len(draws)  # windows of an epoch
        self.world_size = world_size
        self.rank = rank
        self.epoch = 0
        self._handed_out = 0
        self._start_at = 0
        smallest = min(batch_size, self.size)
        if shuffle and smallest < world_size:
            what = f"data.batch_size is {batch_size}" if batch_size <= self.size else f"train has {smallest} windows"
            raise DataError(f"{what}; there must be at least one window for each of the {world_size} processes")

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        full, rest = divmod(self.size, self.batch_size)
        if self.shuffle:
            return max(full, 1)
        # of an incomplete batch, processes beyond its length get nothing; so too of full ones smaller than the job
        return full * (self.rank < self.batch_size) + (rest > self.rank)

    @property
    def sampler(self) -> "WindowLoader":
        """Lightning looks for `sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. A position within another epoch is forgotten."""
        if epoch != self.epoch:
            self._start_at = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches handed out in it."""
        return {"epoch": self.epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where `state_dict` was taken; after a whole epoch, at its beginning."""
        self.epoch = state["epoch"]
        self._start_at = state["batches"] if state["batches"] < len(self) else 0

    def __iter__(self) -> Iterator[Batch]:
        # the body of a generator starts at the first `next`, after Lightning has called set_epoch
        first, self._start_at = self._start_at, 0
        self._handed_out = first
        for number in range(first, len(self)):
            self._handed_out = number + 1  # before the yield: whoever holds the batch counts it as done
            self.windows.series.let_pages_go()
            yield self.batch(number)

    def batch(self, number: int) -> Batch:
        """The number-th batch of this epoch, as this process sees it."""
        start = number * self.batch_size
        everyone = self._order(start, min(start + self.batch_size, self.size))
        mine = np.ascontiguousarray(everyone[self.rank :: self.world_size])
        windows = self._of_this_length(number)
        mask = windows.mask(mine)
        local, total = float(len(mine)), float(len(everyone))
        if mask is not None:
            local, total = float(mask.sum()), float(windows.mask(everyone).sum())
        weight = local * self.world_size / total if total else 0.0
        values = windows.gather(mine)
        if self.shuffle_bars:
            order = self._orders(number, len(everyone), windows.window_size)[self.rank :: self.world_size]
            order = torch.from_numpy(order).to(values.device)
            values = values.take_along_dim(order[..., None], dim=1)
            mask = mask if mask is None else mask.take_along_dim(order, dim=1)
        return Batch(values, mask, torch.from_numpy(mine), weight)

    def _orders(self, number: int, count: int, bars: int) -> np.ndarray:
        """(count, bars): an order of the bars of each window of this epoch's number-th batch, over all processes."""
        generator = np.random.default_rng([self.seed, self.epoch, number, bars])
        return generator.random((count, bars)).argsort(axis=1)

    def _of_this_length(self, number: int) -> Windows:
        """The windows, cut down to the bars that the number-th batch of this epoch takes."""
        if self.shortest is None:
            return self.windows
        generator = np.random.default_rng([self.seed, self.epoch, number])
        bars = int(generator.integers(self.shortest, self.windows.window_size + 1))
        return self.windows.shortened(int(generator.integers(self.windows.window_size - bars + 1)), bars)

    def _order(self, start: int, end: int) -> np.ndarray:
        """Window numbers at positions [start, end) of this epoch's order."""
        if not self.shuffle:
            return np.arange(start, end)
        numbers = self._shuffled(start, end)
        return numbers if self.draws is None else self.draws.windows(numbers, self.epoch)

    def _shuffled(self, start: int, end: int) -> np.ndarray:
        """Positions [start, end) of a random permutation of the epoch's windows."""
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
