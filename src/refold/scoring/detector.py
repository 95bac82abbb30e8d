"""A trained autoencoder as a scorer of bars: windows -> errors -> values of each bar -> score -> verdict.

Letters: N bars, R rows of a series, K assets of a panel (1 otherwise), B rows in a block, T bars, F features, C values.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data import Scaler, Series, Windows
from refold.data.bars.checks import Checks
from refold.data.recipe import Recipe
from refold.data.unsplit import unsplit_series
from refold.errors import ConfigError, DataError
from refold.models import Autoencoder
from refold.scoring.alignment import Aligner, Alignment, RowBlock, partial_windows, row_blocks
from refold.scoring.scored import Scores, alarm_rate, bar_seconds, extent
from refold.scoring.scores import Score
from refold.scoring.scores.base import asset_rows
from refold.scoring.thresholds import Threshold, ValidationScores

BARS_AT_ONCE = 16_384
"""B x T of the windows that go through the model together: enough that a step of the LSTM is a product of matrices that
keeps a core busy, and little enough that glibc keeps the memory between calls (docs/benchmarks.md)."""

MOST_CODES = 20_000
"""Codes of training windows that a score may learn from, spread evenly."""

Job = TypeVar("Job")
Done = TypeVar("Done")

Watch = Callable[[Windows, np.ndarray, Tensor, Tensor, Tensor], None]
"""(windows, (B,) numbers of some of them, their values (B, T, F), codes (B, Z), reconstructions (B, T, F))."""

FORMAT = 1
"""Of the state, for the message about a run of another version."""


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


class Detector:
    """Score bars with a trained autoencoder, and flag those whose score passes a threshold.

    The errors of its own asset's features score a bar. The windows of a panel hold all assets; each asset's bar is
    scored by its own F columns.

    Args:
        autoencoder: trained, on any device.
        recipe: how bars become its windows.
        scaler: from features to what it sees.
        columns: names of a window's columns.
        score: from errors to a score; fitted or not.
        threshold: from scores to levels; fitted or not.
        alignment: how the errors of a bar in several windows become one.
    """

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        recipe: Recipe,
        scaler: Scaler,
        columns: list[str],
        score: Score,
        threshold: Threshold,
        alignment: Alignment,
    ) -> None:
        self.autoencoder = autoencoder
        self.recipe = recipe
        self.scaler = scaler
        self.columns = columns
        self.score_function = score
        self.threshold = threshold
        self.alignment: Alignment = alignment
        self.batch = max(64, BARS_AT_ONCE // recipe.window_size)
        self.workers: int | None = None  # batches at a time; None: as many as torch has threads on a CPU
        self.validation: dict[str, Any] = {}

    @property
    def features(self) -> tuple[str, ...]:
        """The F features that a bar of one asset has."""
        return self.recipe.features

    def checking(self, checks: Checks) -> "Detector":
        """Return this detector with other checks of the bars that it is given; it shares everything else."""
        other = copy(self)
        other.recipe = replace(self.recipe, checks=checks)
        return other

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> "Detector":
        """Fit score and threshold. The autoencoder and its scaler stay as they are.

        Args:
            train: canonical bars of the training part.
            val: canonical bars of the validation part.

        Raises:
            DataError: a part has too few bars.
            ConfigError: validation has too few scores for the threshold.
        """
        pieces = [unsplit_series(bars, self.recipe, self.scaler) for bars in (train, val)]
        return self.fit_series(*((piece.series, piece.segments) for piece in pieces))

    def fit_series(self, train: tuple[Series, np.ndarray], val: tuple[Series, np.ndarray]) -> "Detector":
        """Fit score and threshold to series of the two parts, such as those of a data module.

        Args:
            train: series of the training part, and (S, 2) first row and number of rows of each of its runs.
            val: the same of the validation part.
        """
        score = self.score_function
        if score.reads_codes:
            score.fit_codes(self._codes(*train))
        values = self._bars(*(train if score.fitted_on == "train" else val))[0]
        kept = values[~values.isnan().any(dim=1)].double()
        if not len(kept):
            raise DataError(f"the {score.fitted_on} part has no bar to fit score to: it needs data.window_size bars")
        score.fit(kept)
        scored = self.score_series(*val)
        there = ~np.isnan(scored.score)
        moments, span = extent(scored, val[0].time_dtype)
        self.threshold.fit_validation(ValidationScores(scored.score, scored.asset, moments, span))
        flagged = self.flag(scored.score, scored.asset)[1]
        kept = there | np.concatenate([[False], there[:-1]])  # a row without score keeps two runs apart
        self.validation = {
            "level": float(self.threshold.level),
            "bars": int(there.sum()),
            "flagged": int(flagged.sum()),
            "alarms_per_asset_year": alarm_rate(flagged, scored, val[0].time_dtype),
            "moments": moments,
            "span_seconds": span,
            "bar_seconds": bar_seconds(scored.times, scored.asset, val[0].time_dtype),
            "scores": torch.from_numpy(scored.score[kept]),
            "asset": torch.from_numpy(scored.asset[kept].astype(np.int32)),
        }
        return self

    def _codes(self, series: Series, segments: np.ndarray) -> Tensor:
        """Return the codes of at most MOST_CODES windows, spread evenly, (n, Z) float32."""
        windows = Windows(series, segments, window_size=self.recipe.window_size, stride=1)
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

    # ---- score -------------------------------------------------------------------------------------------------------

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Score canonical bars.

        Returns:
            (N,) float64, one for each row of the bars in its order; NaN where no window holds the bar.
        """
        piece = unsplit_series(bars, self.recipe, self.scaler)
        scored = self.score_series(piece.series, piece.segments, piece.origin)
        result = np.full(bars.height, np.nan)
        kept = scored.origin >= 0
        result[scored.origin[kept]] = scored.score[kept]
        return result

    def score_series(
        self,
        series: Series,
        segments: np.ndarray,
        origin: np.ndarray | None = None,
        progress: Callable[[int], None] = lambda rows: None,
        watch: Watch | None = None,
    ) -> Scores:
        """Score all rows of a series.

        Args:
            series: scaled; R rows.
            segments: (S, 2) first row and number of rows of each run that windows are cut from.
            origin: (R, K) row of the table that each row was made from, -1 for none; None: not known.
            progress: gets the number of rows that are done.
            watch: sees all windows and what the model makes of them, some at a time, in any order and thread.

        Returns:
            Scores of N = R bars, or N = K R of a panel, asset after asset.
        """
        values, reconstruction, asset = self._bars(series, segments, progress, watch)
        contributions = self.score_function.contributions(values.double(), asset).numpy()
        return Scores(
            score=contributions.sum(axis=1),
            contributions=contributions,
            reconstruction=reconstruction.numpy(),
            asset=asset,
            times=np.tile(series.times, len(values) // max(1, len(series.times))),
            origin=np.full(len(values), -1) if origin is None else origin.T.reshape(-1),
        )

    def flag(self, score: np.ndarray, asset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compare scores with their levels.

        Args:
            score: (N,) float64.
            asset: (N,) int, equal numbers side by side.

        Returns:
            Levels (N,) float64 and verdicts (N,) bool.
        """
        levels = np.empty(len(score))
        for rows in asset_rows(asset):
            levels[rows] = self.threshold.levels(score[rows], None)[0]
        with np.errstate(invalid="ignore"):
            return levels, score > levels

    def _bars(
        self,
        series: Series,
        segments: np.ndarray,
        progress: Callable[[int], None] = lambda rows: None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """Measure each bar of an asset: its values (N, C), its reconstruction (N, F), and its asset's number (N,).

        N = R, or K R for a panel: asset after asset.
        """
        values, reconstruction = self._values(series, segments, progress, watch)
        R, F = len(values), len(self.features)
        if self.recipe.layout != "panel":
            return values, reconstruction, np.searchsorted(series.asset_starts, np.arange(R), side="right") - 1
        K = len(self.columns) // F

        def by_asset(columns: Tensor) -> Tensor:
            return columns.view(R, K, F).transpose(0, 1).reshape(K * R, F)

        values = by_asset(values) if self.score_function.names_features else values.repeat(K, 1)
        lacking = (by_asset(series.values.cpu()) == 0).all(dim=1, keepdim=True)  # an asset without a bar at that moment
        values, reconstruction = (part.masked_fill(lacking, torch.nan) for part in (values, by_asset(reconstruction)))
        return values, reconstruction, np.repeat(np.arange(K), R)

    def _values(
        self, series: Series, segments: np.ndarray, progress: Callable[[int], None], watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """Measure each row: its values (R, C), and its reconstruction (R, F) in the units of the features, on the CPU.

        They are NaN where no window holds the row, and where it is absent.
        """
        R, T = len(series.values), self.recipe.window_size
        windows = Windows(series, segments, window_size=T, stride=1)
        aligners = Aligner(self.alignment, T), Aligner("last" if self.alignment == "last" else "mean", T)
        reconstruction = torch.full((R, series.values.shape[1]), torch.nan)
        values = torch.full((R, series.values.shape[1] if self.score_function.names_features else 1), torch.nan)

        def measure(block: RowBlock) -> tuple[RowBlock, tuple[Tensor, Tensor]]:
            number = np.arange(block.window, block.window + int(block.begins.sum()))
            if len(number):
                return block, self._measure(windows, number, watch=watch)
            # the end of a run, where no window begins
            return block, (
                values.new_empty((0, T, values.shape[1])),
                reconstruction.new_empty((0, T, series.values.shape[1])),
            )

        for block, parts in map_in_order(
            measure, row_blocks(segments, T, self.batch), self.workers or self._parallel_blocks()
        ):
            for target, part, aligner in zip((values, reconstruction), parts, aligners, strict=True):
                target[torch.from_numpy(block.rows)] = aligner.align(part, block).cpu()
            progress(len(block.rows))
        if self.alignment == "last":
            self._begin_runs(windows, segments, values, reconstruction)
        return values, self.scaler.inverse_transform(reconstruction)

    def _parallel_blocks(self) -> int:
        """Return how many blocks run in parallel: one per thread of a CPU, where steps are too short to share."""
        on_cpu = next(self.autoencoder.parameters()).device.type == "cpu"
        return torch.get_num_threads() if on_cpu else 1

    def _begin_runs(self, windows: Windows, segments: np.ndarray, *targets: Tensor) -> None:
        """Fill the first T - 1 rows of each run under `last`, from windows that hold the run up to them alone."""
        T = self.recipe.window_size
        rows, bars = partial_windows(segments, T)
        for start in range(0, len(rows), self.batch):
            first, held = rows[start : start + self.batch], bars[start : start + self.batch]
            number = windows.offsets[np.searchsorted(windows.first_rows, first)]
            own = torch.arange(T) < torch.from_numpy(held)[:, None]  # (n, T)
            present = windows.mask(number)
            own = own if present is None else own & present.cpu()
            there = own.any(dim=1)
            parts = self._measure(windows, number[there.numpy()], own[there])
            ends = torch.from_numpy(held)[there] - 1
            for target, part in zip(targets, parts, strict=True):
                part = part.cpu()
                target[torch.from_numpy(first)[there] + ends] = part[torch.arange(len(part)), ends]

    def _measure(
        self, windows: Windows, number: np.ndarray, mask: Tensor | None = None, watch: Watch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Measure some windows: the score's values (B, T, C), and the reconstruction (B, T, F), running free.

        Args:
            windows: of a series.
            number: (B,) which of them.
            mask: (B, T) bool, True for bars that the model looks at; None: all that are present.
            watch: sees the windows, their codes and their reconstructions.
        """
        mask = windows.mask(number) if mask is None else mask
        truth, codes, reconstruction = self.reconstruct(windows, number, mask)
        if watch is not None:
            watch(windows, number, truth, codes, reconstruction)
        values = self.score_function.measure(truth, reconstruction, codes)
        if windows.series.relative:  # to another bar in each window: back to levels, which can be aligned
            reconstruction = reconstruction.clone()
        for column in windows.series.relative:
            reconstruction[:, :, column] += self._first_level(windows, number, column).to(values.device)
        if mask is not None:
            absent = ~mask.to(values.device).unsqueeze(2)
            values, reconstruction = (part.masked_fill(absent, torch.nan) for part in (values, reconstruction))
        return values, reconstruction

    def _first_level(self, windows: Windows, number: np.ndarray, column: int) -> Tensor:
        """Return the log close of each window's first bar (B, 1), scaled as a relative column; NaN without closes."""
        closes = windows.first_close(number)
        if closes is None:
            return torch.full((len(number), 1), torch.nan)
        return (closes.double().log() / self.scaler.std[column]).float().unsqueeze(1)

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

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted, and for which parts, as plain values and tensors."""
        return {
            "format": FORMAT,
            "alignment": self.alignment,
            "columns": list(self.columns),
            "score": {"class": type(self.score_function).__name__, **self.score_function.state_dict()},
            "threshold": {"class": type(self.threshold).__name__, **self.threshold.state_dict()},
            "validation": self.validation,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was fitted.

        Raises:
            ConfigError: it was fitted for another score, threshold or alignment, or by another version.
        """
        if state.get("format") != FORMAT:
            raise ConfigError(
                f"the run's detector is of format {state.get('format')}; this version of refold reads {FORMAT}: choose "
                f"score, threshold or alignment anew, or train again"
            )
        found = state["score"]["class"], state["threshold"]["class"], state["alignment"]
        own = type(self.score_function).__name__, type(self.threshold).__name__, self.alignment
        if found != own:
            raise ConfigError(f"the run's detector is {', '.join(found)}; its settings say {', '.join(own)}")
        self.columns = list(state["columns"])
        self.validation = state["validation"]
        for part, name in ((self.score_function, "score"), (self.threshold, "threshold")):
            part.load_state_dict({key: value for key, value in state[name].items() if key != "class"})
