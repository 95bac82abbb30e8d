"""Encoder, bridge and decoder as one model. Pure torch: it trains in any loop."""

from torch import Tensor, nn

from refold.models.closed_loop import Feeding


class Autoencoder(nn.Module):
    """Windows (B, T, F) to codes (B, Z) and back.

    Args: encoder: windows -> state. bridge: state -> code -> conditioning and first state. decoder: these -> windows.
    """

    def __init__(self, encoder: nn.Module, bridge: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.bridge, self.decoder = encoder, bridge, decoder
        self.code_size: int = bridge.code_size

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B, T, F) with an optional mask (B, T) of present bars -> codes (B, Z)."""
        return self.bridge.encode(self.encoder(windows, mask))

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
        return self.decoder(conditioning, state, window_size=window_size, truth=truth, feeding=feeding, mask=mask)

    def forward(self, windows: Tensor, mask: Tensor | None = None, feeding: Feeding | None = None) -> Tensor:
        """Reconstruct windows (B, T, F). Without `feeding` the decoder never sees the true window, only the code.

        Raises: ValueError: windows, mask or coins do not fit; the message names value, bound and config key.
        """
        truth = windows if feeding is not None and feeding.coins is not None else None
        return self.decode(self.encode(windows, mask), windows.shape[1], truth, feeding, mask)
