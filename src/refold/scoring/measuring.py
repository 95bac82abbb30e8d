"""Put the windows of a series through a trained autoencoder, and measure each row by a score.

Letters: R rows of a series, B windows in a batch, T bars, F columns, Z latent size, C values of a row.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from refold.data import Scaler, Series, Windows
from refold.data.unsplit import ShortRuns
from refold.models import Autoencoder
from refold.scoring.alignment import Aligner, Alignment, RowBlock, partial_windows, row_blocks
from refold.scoring.predictions import Predictions
from refold.scoring.scores import Score

BARS_AT_ONCE = 16_384
"""B x T of the windows that go through the model together: enough that a step of the LSTM is a product of matrices that
keeps a core busy, and little enough that glibc keeps the memory between calls (docs/benchmarks.md)."""

MOST_CODES = 20_000
"""Codes of training windows that a score may learn from, spread evenly."""

Job = TypeVar("Job")
Done = TypeVar("Done")

Watch = Callable[[Windows, np.ndarray, Tensor, Tensor, Tensor], None]
"""(windows, (B,) numbers of some of them, their values (B, T, F), codes (B, Z), reconstructions (B, T, F))."""


def map_in_order(work: Callable[[Job], Done], jobs: Iterable[Job], workers: int) -> Iterator[Done]:
    """Run jobs on several threads, and yield their results in the order of the jobs.

    Args:
        work: what is done with a job. torch has one thread for each of them meanwhile.
        jobs: taken as they are needed.
        workers: jobs that are done at the same time.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    waiting: deque[Future[Done]] = deque()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread and of those that the pool starts
    try:
        with ThreadPoolExecutor(workers) as pool:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > workers:  # no more than that is held
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Measurer:
    """Measure the rows of a series by what a trained autoencoder makes of the windows that hold them.

    Attributes:
        autoencoder: trained, on any device.
        scaler: from features to what the autoencoder sees.
        score: says which values of a row are measured; fitted or not.
        alignment: how the values of a row in several windows become one.
        window_size: T.
        num_features: F, columns of one asset.
        batch: windows at a time.
        workers: batches at a time; None: as many as torch has threads on a CPU.
    """

    autoencoder: Autoencoder
    scaler: Scaler
    score: Score
    alignment: Alignment
    window_size: int
    num_features: int
    batch: int
    workers: int | None

    def codes(self, series: Series, segments: np.ndarray) -> Tensor:
        """Return the codes of at most MOST_CODES windows, spread evenly, (n, Z) float32."""
        windows = Windows(series, segments, window_size=self.window_size, stride=1)
        chosen = np.linspace(0, len(windows) - 1, min(len(windows), MOST_CODES)).round().astype(np.int64)
        starts = range(0, len(chosen), self.batch)
        return torch.cat([self.encode(windows, chosen[start : start + self.batch]) for start in starts])

    @torch.inference_mode()
    def encode(self, windows: Windows, number: np.ndarray) -> Tensor:
        """Encode some windows without decoding them.

        Args:
            windows: of a series.
            number: (B,) which of them.

        Returns:
            (B, Z) float32, on the CPU.
        """
        device, mask = next(self.autoencoder.parameters()).device, windows.mask(number)
        self.autoencoder.eval()
        codes = self.autoencoder.encode(windows.gather(number).to(device), None if mask is None else mask.to(device))
        return codes.cpu()

    def values(
        self,
        series: Series,
        segments: np.ndarray,
        progress: Callable[[int], None],
        watch: Watch | None,
        short_runs: ShortRuns | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Measure each row: its values (R, C), and its reconstruction (R, F) in the units of the features, on the CPU.

        They are NaN where no window holds the row, and where it is absent. Rows that are in too short a run for a
        window of their own are measured by windows that run on over masked bars, if `short_runs` has some. Errors of
        the prediction are NaN in the first T rows of a run, too, which come after no window.
        """
        values, reconstruction, *ahead = self._aligned(series, segments, progress, watch)
        if short_runs is not None and self.alignment != "last":  # under it each run has windows of its own bars
            short = torch.from_numpy(short_runs.short)
            parts = self._aligned(short_runs.series, short_runs.segments, lambda rows: None, None)
            for target, part in zip((values, reconstruction, *ahead), parts, strict=True):
                target[short] = part[short]
        if ahead:
            values = ahead[0] if self.score.errors_of == "prediction" else torch.cat([values, *ahead], dim=1)
        rows = np.arange(len(series.values))
        return values, self.scaler.at(series, rows).inverse_transform(reconstruction)

    def _aligned(
        self, series: Series, segments: np.ndarray, progress: Callable[[int], None], watch: Watch | None
    ) -> list[Tensor]:
        """Measure each row: its values (R, C), its reconstruction (R, F), and errors of its prediction (R, F), scaled.

        The last are left out where the score does not need them.
        """
        R, T, F = len(series.values), self.window_size, series.values.shape[1]
        windows = Windows(series, segments, window_size=T, stride=1)
        aligners = Aligner(self.alignment, T), Aligner("last" if self.alignment == "last" else "mean", T)
        reconstruction = torch.full((R, F), torch.nan)
        values = torch.full((R, self.score.value_columns(F, self.num_features)), torch.nan)
        predicted = Predictions(windows, self.alignment, self.autoencoder.horizon) if self.score.predicts else None

        def measure(block: RowBlock) -> tuple[RowBlock, np.ndarray, tuple[Tensor, ...]]:
            number = np.arange(block.window, block.window + int(block.begins.sum()))
            if len(number):
                return block, number, self._measure(windows, number, watch=watch, predicted=predicted)
            # the end of a run, where no window begins
            empty = values.new_empty((0, T, values.shape[1])), reconstruction.new_empty((0, T, F))
            return block, number, (*empty, *([predicted.empty] if predicted else []))

        for block, number, parts in map_in_order(
            measure, row_blocks(segments, T, self.batch), self.workers or self._parallel_blocks()
        ):
            for target, part, aligner in zip((values, reconstruction), parts[:2], aligners, strict=True):
                target[torch.from_numpy(block.rows)] = aligner.align(part, block).cpu()
            if predicted is not None:
                predicted.add(parts[2], block, number)
            progress(len(block.rows))
        if self.alignment == "last":
            self._fill_beginnings(series, segments, values, reconstruction)
        return [values, reconstruction, *([predicted.errors] if predicted else [])]

    def _parallel_blocks(self) -> int:
        """Return how many blocks run in parallel: one per thread of a CPU, where steps are too short to share."""
        on_cpu = next(self.autoencoder.parameters()).device.type == "cpu"
        return torch.get_num_threads() if on_cpu else 1

    def _fill_beginnings(self, series: Series, segments: np.ndarray, *targets: Tensor) -> None:
        """Fill the first rows of runs under `last`, from windows that hold the run up to each of them alone.

        Args:
            series: scaled; R rows.
            segments: (S, 2) first row and number of rows of each run.
            targets: values and reconstruction of all rows.
        """
        T = self.window_size
        rows, bars = partial_windows(segments, T)
        firsts = segments[:, 0]
        whole = series if not len(firsts) or firsts[-1] + T <= len(series.values) else _lengthened(series, T)
        windows = Windows(whole, np.stack([firsts, np.full_like(firsts, T)], axis=1), window_size=T, stride=1)
        for start in range(0, len(rows), self.batch):
            first, held = rows[start : start + self.batch], bars[start : start + self.batch]
            number = np.searchsorted(firsts, first)  # one window begins at each run
            own = torch.arange(T) < torch.from_numpy(held)[:, None]  # (n, T)
            present = windows.mask(number)
            own = own if present is None else own & present.cpu()
            parts = self._measure(windows, number, own)
            ends = torch.from_numpy(held) - 1
            for target, part in zip(targets, parts, strict=True):
                part = part.cpu()
                target[torch.from_numpy(first) + ends] = part[torch.arange(len(part)), ends]

    def _measure(
        self,
        windows: Windows,
        number: np.ndarray,
        mask: Tensor | None = None,
        watch: Watch | None = None,
        predicted: Predictions | None = None,
    ) -> tuple[Tensor, ...]:
        """Measure some windows: the score's values (B, T, C), and the reconstruction (B, T, F), running free.

        With `predicted`, also the errors of the prediction (B, P, F).

        Args:
            windows: of a series.
            number: (B,) which of them.
            mask: (B, T) bool, True for bars that the model looks at; None: all that are present.
            watch: sees the windows, their codes and their reconstructions.
            predicted: knows the bars after the windows.
        """
        mask = windows.mask(number) if mask is None else mask
        truth, codes, reconstruction = self.reconstruct(windows, number, mask)
        if watch is not None:
            watch(windows, number, truth, codes, reconstruction)
        values = self.score.measure(truth, reconstruction, codes, None if mask is None else mask.to(truth.device))
        if windows.series.relative:  # to another bar in each window: back to levels, which can be aligned
            reconstruction = reconstruction.clone()
        for column in windows.series.relative:
            reconstruction[:, :, column] += self._first_level(windows, number, column).to(values.device)
        if mask is not None:
            absent = ~mask.to(values.device).unsqueeze(2)
            values, reconstruction = (part.masked_fill(absent, torch.nan) for part in (values, reconstruction))
        if predicted is None:
            return values, reconstruction
        return values, reconstruction, predicted.measure(self.autoencoder, codes, number)

    def _first_level(self, windows: Windows, number: np.ndarray, column: int) -> Tensor:
        """Return the log close of each window's first bar (B, 1), scaled as a relative column; NaN without closes."""
        closes = windows.first_close(number)
        if closes is None:
            return torch.full((len(number), 1), torch.nan)
        std = self.scaler.at(windows.series, windows.starts(number)).std[..., column]
        return (closes.double().log() / std).float().unsqueeze(1)

    @torch.inference_mode()
    def reconstruct(self, windows: Windows, number: np.ndarray, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the model on some windows.

        Args:
            windows: of a series.
            number: (B,) which of them.
            mask: (B, T) bool, True for bars that the model looks at; None: all.

        Returns:
            The windows (B, T, F), their codes (B, Z), and what the decoder makes of the codes (B, T, F), scaled, on
            the model's device.
        """
        device = next(self.autoencoder.parameters()).device
        truth = windows.gather(number).to(device)
        mask = None if mask is None else mask.to(device)
        self.autoencoder.eval()
        codes = self.autoencoder.encode(truth, mask)
        return truth, codes, self.autoencoder.decode(codes, truth.shape[1], mask=mask)


def _lengthened(series: Series, bars: int) -> Series:
    """Return a series with rows after its end, so that a window of so many bars may begin at each row."""
    values = torch.cat([series.values, series.values.new_zeros(bars, series.values.shape[1])])
    present = None if series.present is None else torch.cat([series.present, series.present.new_zeros(bars)])
    close = None if series.close is None else torch.cat([series.close, series.close.new_full((bars,), torch.nan)])
    return replace(series, values=values, present=present, close=close)
