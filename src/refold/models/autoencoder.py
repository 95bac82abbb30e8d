"""Encoder, bridge and decoder as one model. Pure torch: it trains in any loop."""

import torch
from torch import Tensor, nn

from refold.models.closed_loop import Feeding
from refold.models.linear import LinearPath, rest_of


class Autoencoder(nn.Module):
    """Windows (B, T, F) to codes (B, Z) and back.

    Args: encoder: windows -> state. bridge: state -> code -> conditioning and first state. decoder: these -> windows.
        linear: adds to the code and to the reconstruction; None: the LSTMs alone.
    """

    def __init__(
        self, encoder: nn.Module, bridge: nn.Module, decoder: nn.Module, linear: LinearPath | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.bridge, self.decoder, self.linear = encoder, bridge, decoder, linear
        self.code_size: int = bridge.code_size

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B, T, F) with an optional mask (B, T) of present bars -> codes (B, Z)."""
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
        conditioning, state = self.bridge.decode(code)
        if self.linear is None:
            return self.decoder(conditioning, state, window_size=window_size, truth=truth, feeding=feeding, mask=mask)
        straight = self.linear.decode(code, window_size)
        rest = rest_of(truth, straight)
        return straight + self.decoder(
            conditioning, state, window_size=window_size, truth=rest, feeding=feeding, mask=mask
        )

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
