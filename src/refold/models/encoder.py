"""A window becomes the final state of a stacked LSTM.

Legend: B windows, T bars, F features, H hidden size, L layers.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.alignment import check_mask


def check_windows(windows: Tensor, num_features: int, key: str) -> None:
    """Refuse windows that are not (B, T, F) floating point with at least one bar and the F that `key` gives."""
    if windows.ndim != 3 or windows.shape[2] != num_features or windows.shape[1] < 1:
        raise ValueError(
            f"windows are {tuple(windows.shape)}; they must be (B, T, {num_features}), T >= 1, F from {key}"
        )
    if not windows.is_floating_point():
        raise ValueError(f"windows are {windows.dtype}; they must be floating point, scaled as data.scaler does it")


class LSTMEncoder(nn.Module):
    """Stacked LSTM, one- or bidirectional, read at the last present bar.

    Args: input_size: F. hidden_size: H of each direction. num_layers: L. dropout: probability of dropping a number
        between two layers while training. bidirectional: a second LSTM reads from the last bar to the first;
        `state_size` is then 2 H.
    """

    @checked("encoder")
    def __init__(
        self,
        *,
        input_size: Annotated[int, at_least(1)],
        hidden_size: Annotated[int, at_least(1)],
        num_layers: Annotated[int, at_least(1)],
        dropout: Annotated[float, within(0, 1, open_end=True)],
        bidirectional: bool,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.state_size = hidden_size * (2 if bidirectional else 1)
        self.lstm = nn.LSTM(
            input_size, hidden_size, num_layers, batch_first=True, dropout=dropout, bidirectional=bidirectional
        )

    def forward(self, windows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read windows; absent bars are skipped, so the state is that of each window's present bars alone.

        Args: windows: (B, T, F), anything at absent bars, NaN too. mask: (B, T) bool, True at present bars, or None.
        Returns: (h, c), each (L, B, state_size), after the last present bar; the two directions side by side.
        Raises: ValueError: windows are not (B, T, F) floating point, or the mask does not fit them (`check_mask`).
        """
        check_windows(windows, self.lstm.input_size, "encoder.input_size")
        if mask is None:
            _, (h, c) = self.lstm(windows)
        else:
            check_mask(mask, *windows.shape[:2])
            states = [self.lstm(window[present].unsqueeze(0))[1] for window, present in zip(windows, mask, strict=True)]
            h, c = (torch.cat(part, dim=1) for part in zip(*states, strict=True))
        if self.lstm.bidirectional:  # (2 L, B, H), directions of a layer adjacent -> (L, B, 2 H)
            h, c = (part.unflatten(0, (self.num_layers, 2)).transpose(1, 2).flatten(2) for part in (h, c))
        return h, c
