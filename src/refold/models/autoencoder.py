"""Encoder, bridge and decoder as one model. Pure torch: it trains in any loop."""

import torch
from torch import Tensor, nn

from refold.models.bridge import check_code
from refold.models.closed_loop import Feeding
from refold.models.encoder import check_windows
from refold.models.linear import LinearPath, rest_of
from refold.models.masks import check_mask, mean_of_windows

SMALLEST_SIZE = 1e-6  # of a window, in training standard deviations, and of a code: what is all zeros has none


def size_of(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square of the present rows of each element of a batch, positive, in float32 at least.

    Args: values: (B, T, F). mask: (B, T), None: all are present. Returns: (B, 1, 1).
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return mean_of_windows(values.square(), mask).clamp(min=SMALLEST_SIZE**2).sqrt()[:, None, None]


class Autoencoder(nn.Module):
    """Windows (B, T, F) to codes (B, Z) and back.

    With `bridge.normalize_windows`, s times a window has s times its code and s times its reconstruction: the encoder
    reads it in units of its own root mean square, the code has that length, and what the decoder makes of the code's
    direction is put back on it. (Reversible instance normalisation, Kim et al. 2022, but the size passes through the
    bottleneck too, and means stay where they are.) What is learned of calm windows then holds in wild ones, which an
    LSTM's bounded state could not follow.

    Args: encoder: windows -> state. bridge: state -> code -> conditioning and first state. decoder: these -> windows.
        linear: adds to the code and to the reconstruction; None: the LSTMs alone.
    """

    def __init__(
        self, encoder: nn.Module, bridge: nn.Module, decoder: nn.Module, linear: LinearPath | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.bridge, self.decoder, self.linear = encoder, bridge, decoder, linear
        self.code_size: int = bridge.code_size
        self.normalize_windows: bool = getattr(bridge, "normalize_windows", False)  # a user's own may not say

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B, T, F) with an optional mask (B, T) of present bars -> codes (B, Z)."""
        if self.normalize_windows:
            check_windows(windows, windows.shape[-1])
            if mask is not None:
                check_mask(mask, *windows.shape[:2])
            size = size_of(windows, mask)
            code = self.bridge.encode(self.encoder((windows / size).to(windows.dtype), mask))
            exact = torch.promote_types(code.dtype, windows.dtype)  # under autocast codes are less precise than windows
            return (code * (size / size_of(code.unsqueeze(1))).squeeze(2)).to(exact)
        code = self.bridge.encode(self.encoder(windows, mask))
        return code if self.linear is None else code + self.linear.encode(windows, mask)

    def decode(
        self,
        code: Tensor,
        window_size: int,
        truth: Tensor | None = None,
        feeding: Feeding | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Codes (B, Z) -> windows (B, T, F). Runs free, and needs no truth, unless `feeding` says otherwise."""
        if self.normalize_windows:
            check_code(code, self.code_size, "bridge.latent_dim")
            size = size_of(code.unsqueeze(1))
            if (
                truth is not None
                and truth.is_floating_point()
                and truth.shape[:1] == code.shape[:1]
                and truth.ndim == 3
            ):
                truth = (truth / size.detach()).to(truth.dtype)  # any other is refused by the decoder
            direction = (code / size.squeeze(2)).to(code.dtype)
            return (self._unroll(direction, window_size, truth, feeding, mask) * size).to(code.dtype)
        if self.linear is None:
            return self._unroll(code, window_size, truth, feeding, mask)
        straight = self.linear.decode(code, window_size)
        return straight + self._unroll(code, window_size, rest_of(truth, straight), feeding, mask)

    def _unroll(
        self, code: Tensor, window_size: int, truth: Tensor | None, feeding: Feeding | None, mask: Tensor | None
    ) -> Tensor:
        """What the LSTM makes of a code, (B, T, F)."""
        conditioning, state = self.bridge.decode(code)
        return self.decoder(conditioning, state, window_size=window_size, truth=truth, feeding=feeding, mask=mask)

    @torch.no_grad()
    def start_from_components(self, mean: Tensor, components: Tensor, scale: float) -> None:
        """Reconstruct as principal components do: they become the linear path, and what the LSTMs add becomes 0.

        The LSTMs keep their random weights; only the two maps that end in the sum are zeroed, so all of them learn.

        Args: as `LinearPath.start_from`.
        """
        self.linear.start_from(mean, components, scale)
        for last in (self.bridge.to_code, self.decoder.projection):
            last.weight.zero_()
            last.bias.zero_()

    def forward(self, windows: Tensor, mask: Tensor | None = None, feeding: Feeding | None = None) -> Tensor:
        """Reconstruct windows (B, T, F). Without `feeding` the decoder never sees the true window, only the code.

        Raises: ValueError: windows, mask or coins do not fit; the message names value, bound and config key.
        """
        truth = windows if feeding is not None and feeding.coins is not None else None
        return self.decode(self.encode(windows, mask), windows.shape[1], truth, feeding, mask)
