"""Encoders: from a window to the final state of a stacked LSTM. Letters as in `refold.models`."""

from typing import Annotated

import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.fused import State, fused_lstm
from refold.models.masks import check_mask, present_last, take


def check_windows(windows: Tensor, num_features: int) -> None:
    """Refuse windows that are not (B, T, F) floating point with at least one bar.

    Args:
        windows: to be (B, T, F), T at least 1, floating point.
        num_features: F.

    Raises:
        ValueError: the shape or the type is another one; the message names it, what it must be and the config key.
    """
    if windows.ndim != 3 or windows.shape[2] != num_features or windows.shape[1] < 1:
        raise ValueError(
            f"windows are {tuple(windows.shape)}; they must be (B, T, F) with T at least 1 (data.window_size) and "
            f"F = {num_features} (data.features)"
        )
    if not windows.is_floating_point():
        raise ValueError(f"windows are {windows.dtype}; they must be floating point, scaled features (data.features)")


def states_of_present(lstm: nn.LSTM, windows: Tensor, mask: Tensor) -> State:
    """Read windows without their absent bars, in one fused call for each layer and direction.

    Present bars are moved to the end of their window, so that all windows end together. The net then has to stay in
    the zero state that it starts from until a window's first present bar. An extra input, 1 at absent bars, shuts the
    input gate: its sigmoid is exactly 0 at -1e4 in every precision, hence c = f * 0 + 0 * g = 0 and
    h = o * tanh(0) = 0, and no gradient passes.

    Args:
        lstm: an LSTM with batch_first and biases.
        windows: (B, T, F), anything at absent bars.
        mask: (B, T) bool, True at present bars.

    Returns:
        Final (h, c), each (L, B, H), or (2 L, B, H) as nn.LSTM stacks two directions.
    """
    B, T, _ = windows.shape
    order = present_last(mask)
    present = mask.gather(1, order)
    absent = (~present).unsqueeze(2).to(windows.dtype)
    step = torch.arange(T, device=mask.device)
    first = T - mask.sum(dim=1, keepdim=True)
    backward = torch.where(present, T - 1 + first - step, step)  # reads the present bars from the last to the first
    inputs = take(windows.masked_fill(~mask.unsqueeze(2), 0.0), order)
    zeros = windows.new_zeros(1, B, lstm.hidden_size)
    directions = 2 if lstm.bidirectional else 1
    states, outputs = [], []
    for n, (w_ih, w_hh, b_ih, b_hh) in enumerate(lstm.all_weights):
        shut = nn.functional.pad(w_ih.new_full((lstm.hidden_size, 1), -1e4), (0, 0, 0, 3 * lstm.hidden_size))
        layer = [torch.cat([w_ih, shut], dim=1), w_hh, b_ih, b_hh]  # rows i, f, g, o: the input gate is the first block
        is_backward = n % directions == 1
        beside = torch.cat([take(inputs, backward) if is_backward else inputs, absent], dim=2)
        hidden, state = fused_lstm(beside, (zeros, zeros), [layer], 0.0)
        states.append(state)
        outputs.append(take(hidden, backward) if is_backward else hidden)
        if len(outputs) == directions and n + 1 < len(lstm.all_weights):  # dropout between layers, not after the last
            inputs = nn.functional.dropout(torch.cat(outputs, dim=2), lstm.dropout, lstm.training)
            outputs = []
    h, c = (torch.cat(part) for part in zip(*states, strict=True))
    return h, c


class LSTMEncoder(nn.Module):
    """Stacked LSTM, in one direction or both, whose state after the last present bar stands for the window.

    Args:
        input_size: F, at least 1.
        hidden_size: H of each direction, at least 1.
        num_layers: L, at least 1.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        bidirectional: True adds a second LSTM that reads from the last bar to the first; `state_size` is then 2 H.

    Raises:
        ValueError: a value is out of bounds.
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

    def forward(self, windows: Tensor, mask: Tensor | None) -> State:
        """Read windows; absent bars are skipped, so the state is that of each window's present bars alone.

        Args:
            windows: (B, T, F), floating point; anything may stand at absent bars, NaN too.
            mask: (B, T) bool, True at present bars; None if all are present.

        Returns:
            (h, c), each (L, B, state_size), after the last present bar; the two directions side by side.

        Raises:
            ValueError: the windows are not (B, T, F) floating point, or the mask does not fit them (`check_mask`).
        """
        check_windows(windows, self.lstm.input_size)
        if mask is None:
            _, (h, c) = self.lstm(windows)
        else:
            check_mask(mask, *windows.shape[:2])
            h, c = states_of_present(self.lstm, windows, mask)
        if self.lstm.bidirectional:  # (2 L, B, H), directions of a layer adjacent -> (L, B, 2 H)
            h, c = (part.unflatten(0, (self.num_layers, 2)).transpose(1, 2).flatten(2) for part in (h, c))
        return h, c
