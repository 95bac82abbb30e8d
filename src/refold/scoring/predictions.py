"""Errors of predictions, put in the rows of the bars that were predicted.

Letters: R rows of a series, B windows, T bars in a window, P bars after a window, F columns.
"""

import numpy as np
import torch
from torch import Tensor

from refold.data import Windows
from refold.models import Autoencoder
from refold.scoring.alignment import Aligner, Alignment, RowBlock


class Predictions:
    """Collect the errors of the bars after the windows of a series, block by block.

    A window may end at any row of a run; of the P bars after it those count that lie in its run.

    Args:
        windows: of the series, at stride 1.
        alignment: how the errors of a bar that several windows predict become one.
        horizon: P.
    """

    def __init__(self, windows: Windows, alignment: Alignment, horizon: int) -> None:
        self.windows = windows
        self.horizon = horizon
        self.aligner = Aligner(alignment, horizon, newest=True)
        R, F = windows.series.values.shape
        self.errors = torch.full((R, F), torch.nan)
        self.empty = torch.empty((0, horizon, F))

    def _ends(self, number: np.ndarray) -> np.ndarray:
        """Return the row after the run of each window (B,)."""
        windows = self.windows
        run = np.searchsorted(windows.offsets, number, side="right") - 1
        last_window = windows.first_rows[run] + windows.offsets[run + 1] - windows.offsets[run] - 1
        return last_window + windows.window_size

    def measure(self, autoencoder: Autoencoder, codes: Tensor, number: np.ndarray) -> Tensor:
        """Predict the bars after some windows, and return the signed errors (B, P, F), NaN where there is no bar.

        Args:
            autoencoder: with a predictor.
            codes: (B, Z) of the windows.
            number: (B,) which windows.
        """
        windows, series = self.windows, self.windows.series
        starts, ends = windows.starts(number), self._ends(number)
        rows = starts[:, None] + windows.window_size + np.arange(self.horizon)
        there, rows = torch.from_numpy(rows < ends[:, None]), torch.from_numpy(np.minimum(rows, ends[:, None] - 1))
        rows, there = rows.to(series.values.device), there.to(codes.device)
        bars, mask = series.values[rows].to(codes.device), None
        if series.present is not None:
            mask = series.present[rows].to(codes.device)
            there = there & mask
        for column in series.relative:
            bars[..., column] -= self._first_value(number, column).to(codes.device)
        with torch.inference_mode():
            made = autoencoder.predict(codes, mask=mask)
        return (bars - made).masked_fill(~there.unsqueeze(2), torch.nan)

    def _first_value(self, number: np.ndarray, column: int) -> Tensor:
        """Return what a relative column of each window is relative to: its first present bar, (B, 1)."""
        windows, series = self.windows, self.windows.series
        rows, mask = windows.starts(number), windows.mask(number)
        if mask is not None:
            rows = rows + mask.cpu().int().argmax(dim=1).numpy()
        return series.values[torch.from_numpy(rows).to(series.values.device), column].unsqueeze(1)

    def add(self, errors: Tensor, block: RowBlock, number: np.ndarray) -> None:
        """Align the errors of the windows that begin in a block.

        Args:
            errors: (B, P, F), as `measure` returns them.
            block: rows that follow those of the block before.
            number: (B,) the windows.
        """
        # the P bars after a window are a window of their own, T rows after the row where the window begins
        aligned = self.aligner.align(errors, block)[torch.from_numpy(block.begins)].cpu()
        rows = block.rows[block.begins] + self.windows.window_size
        inside = rows < self._ends(number) if len(number) else np.zeros(0, dtype=bool)
        self.errors[torch.from_numpy(rows[inside])] = aligned[torch.from_numpy(inside)]
