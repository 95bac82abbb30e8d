"""A linear path beside the LSTMs, from a window to its code and back.

    code = W_e x + LSTM part              x: the window, flat, absent bars 0
    reconstruction = W_d code + LSTM decoder's output

Principal components of windows beat most LSTM autoencoders of returns. With the path started at them, and the LSTMs'
parts at 0, training starts at PCA's error and learns from there.

**The closed loop stays exact.** W_d code is known before the first step, so it stays outside the loop, and the decoder
unrolls the rest of the window. Its own output is fed back as it is. Where a coin picks the truth, the decoder is fed
the true rest, truth - W_d code. The truth is data: no gradient flows through it. Letters as in `refold.models`.
"""

import torch
from torch import Tensor, nn


class LinearPath(nn.Module):
    """Linear maps of flat windows to codes and of codes to flat windows.

    A bar is known by its place from the end of the window: a shorter window is one whose first bars are absent.

    Args:
        window_size: T of the longest windows.
        num_features: F.
        code_size: Z.
    """

    def __init__(self, *, window_size: int, num_features: int, code_size: int) -> None:
        super().__init__()
        self.window_size, self.num_features = window_size, num_features
        self.to_code = nn.Linear(window_size * num_features, code_size)
        self.to_window = nn.Linear(code_size, window_size * num_features)

    def encode(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the path's part of the code.

        Args:
            windows: (B, T, F).
            mask: (B, T) bool, True at present bars; None if all are present.

        Returns:
            (B, Z).

        Raises:
            ValueError: the windows have more bars than the path was made for.
        """
        missing = self._missing_bars(windows.shape[1])
        if mask is not None:
            windows = windows.masked_fill(~mask.unsqueeze(2), 0.0)
        if missing:
            windows = nn.functional.pad(windows, (0, 0, missing, 0))
        return self.to_code(windows.flatten(1))

    def decode(self, code: Tensor, window_size: int) -> Tensor:
        """Compute the path's part of the reconstruction.

        Args:
            code: (B, Z).
            window_size: T.

        Returns:
            (B, T, F).

        Raises:
            ValueError: window_size is more than the path was made for.
        """
        missing = self._missing_bars(window_size)
        return self.to_window(code).unflatten(1, (self.window_size, self.num_features))[:, missing:]

    def _missing_bars(self, window_size: int) -> int:
        """Count the bars that a window lacks of the longest one, or refuse a longer one."""
        if window_size > self.window_size:
            raise ValueError(
                f"windows have {window_size} bars; under bridge.linear_path=pca they must have at most "
                f"{self.window_size} (data.window_size): bridge.linear_path=none reads windows of any length"
            )
        return self.window_size - window_size

    @torch.no_grad()
    def start_from(self, mean: Tensor, components: Tensor, scale: float) -> None:
        """Make the path the projection on principal components: code = components' (x - mean) / scale, and back.

        Args:
            mean: (T F,), mean of the flat windows.
            components: (T F, Z or fewer), orthonormal columns; numbers of the code beyond them stay out of the path.
            scale: unit of the code, positive.
        """
        kept = components.shape[1]
        for weights in self.parameters():
            weights.zero_()
        self.to_code.weight[:kept] = (components / scale).t().to(self.to_code.weight)
        self.to_code.bias[:kept] = (-(mean @ components) / scale).to(self.to_code.bias)
        self.to_window.weight[:, :kept] = (components * scale).to(self.to_window.weight)
        self.to_window.bias.copy_(mean)


def subtract_straight(truth: Tensor | None, straight: Tensor) -> Tensor | None:
    """Subtract the path's part from the true windows; no gradient flows through the result.

    Args:
        truth: (B, T, F), or None.
        straight: (B, T, F), from `LinearPath.decode`.

    Returns:
        (B, T, F), what the decoder is to add to the path's part; None without a truth.

    Raises:
        ValueError: the truth has another shape.
    """
    if truth is None:
        return None
    if truth.shape != straight.shape:
        raise ValueError(
            f"truth is {tuple(truth.shape)}; it must be (B, T, F) = {tuple(straight.shape)} "
            "(data.window_size, data.features)"
        )
    return truth - straight.detach()
