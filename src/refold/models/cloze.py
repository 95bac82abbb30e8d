"""Predict each bar of a window from the bars around it, never from itself. Letters as in `refold.models`.

    forward LSTM    a  b  c  d  e        state before c: has read a b
    backward LSTM   a  b  c  d  e        state after c:  has read e d
                          |
                    both states -> mean and scale of c

All T bars of a window are left out, each in its turn, by two fused LSTM calls, where a model that is told which bar is
hidden would need T.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, within
from refold.models.encoder import check_windows
from refold.models.masks import check_mask, decoding_order, inverse, take


class Cloze(nn.Module):
    """Two stacked LSTMs, one per direction, and a small network from their states around a bar to that bar.

    The directions share nothing, in no layer. A bidirectional nn.LSTM joins them after each layer, so that from its
    second layer on every state has seen every bar; it could copy what it has to predict.

    Args:
        num_features: F, at least 1.
        hidden_size: H of each direction, at least 1.
        num_layers: L, at least 1.
        dropout: probability of dropping a number between two layers while training, in [0, 1).
        margin: bars on each side of a bar that are hidden with it, at least 0: what lasts for several bars is then not
            predicted from itself.

    Raises:
        ValueError: a value is out of bounds.
    """

    @checked("cloze")
    def __init__(
        self,
        *,
        num_features: Annotated[int, at_least(1)],
        hidden_size: Annotated[int, at_least(1)],
        num_layers: Annotated[int, at_least(1)],
        dropout: Annotated[float, within(0, 1, open_end=True)],
        margin: Annotated[int, at_least(0)],
    ) -> None:
        super().__init__()
        self.margin = margin
        settings = {"num_layers": num_layers, "dropout": dropout, "batch_first": True}
        self.before = nn.LSTM(num_features, hidden_size, **settings)
        self.after = nn.LSTM(num_features, hidden_size, **settings)
        self.read_out = nn.Sequential(
            nn.Linear(2 * hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, 2 * num_features)
        )

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predict each bar of some windows.

        The first bar is predicted from the bars after it alone, the last bar from those before it; a window of one bar
        from nothing.

        Args:
            windows: (B, T, F), scaled features, floating point; anything may stand at absent bars, NaN too.
            mask: (B, T) bool, True at present bars; None if all are present. Absent bars do not exist: neighbours are
                the nearest present bars.

        Returns:
            Mean (B, T, F) of each bar, and the log of its scale (B, T, F), in the units of the windows; finite but
            without meaning at absent bars.

        Raises:
            ValueError: the windows are not (B, T, F) floating point, or the mask does not fit them (`check_mask`).
        """
        check_windows(windows, self.before.input_size)
        if mask is not None:
            check_mask(mask, *windows.shape[:2])
            windows = windows.masked_fill(~mask.unsqueeze(2), 0.0)
        states = self._states(self.before, windows, mask, False), self._states(self.after, windows, mask, True)
        mean, log_scale = self.read_out(torch.cat(states, dim=2)).chunk(2, dim=2)  # (B, T, 2 F) -> twice (B, T, F)
        return mean, log_scale

    def _states(self, lstm: nn.LSTM, windows: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
        """Return the state that an LSTM has reached `margin` bars before it comes to each bar, (B, T, H); 0 at first.

        Args:
            lstm: of one direction.
            windows: (B, T, F), finite.
            mask: (B, T) bool, or None.
            reverse: True reads from the last bar to the first.
        """
        if mask is None:
            order, ordered = None, windows.flip(1) if reverse else windows
        else:  # present bars first, so that no absent one stands between two of them
            order = decoding_order(mask, reverse)
            ordered = take(windows, order)
        hidden, _ = lstm(ordered)
        T, skipped = windows.shape[1], min(self.margin + 1, windows.shape[1])
        hidden = nn.functional.pad(hidden[:, : T - skipped], (0, 0, skipped, 0))
        if order is None:
            return hidden.flip(1) if reverse else hidden
        return take(hidden, inverse(order))


def student_surprise(windows: Tensor, mean: Tensor, log_scale: Tensor, degrees: float) -> Tensor:
    """Return -ln of Student's density of each value, up to a constant: (n + 1)/2 ln(1 + z^2/n) + ln(scale).

    Args:
        windows: (B, T, F).
        mean: (B, T, F), predicted.
        log_scale: (B, T, F), predicted.
        degrees: n, degrees of freedom, above 0; few have heavy tails, as returns do.

    Returns:
        (B, T, F).
    """
    z = (windows - mean) * torch.exp(-log_scale)
    return (degrees + 1) / 2 * torch.log1p(z.square() / degrees) + log_scale
