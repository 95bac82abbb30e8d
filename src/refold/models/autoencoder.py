"""Encoder, bridge and decoder as one model. Pure torch: it trains in any loop. Letters as in `refold.models`.

With a predictor it is the composite model of Srivastava et al. 2015 (arXiv 1502.04681, section 2.3): from one code, one
decoder writes the window and another the P bars after it.
"""

import torch
from torch import Tensor, nn

from refold.models.bridge import Bridge, check_code
from refold.models.closed_loop import Feeding
from refold.models.encoder import check_windows
from refold.models.linear import LinearPath, subtract_straight
from refold.models.masks import check_mask, mean_of_windows

SMALLEST_SIZE = 1e-6
"""Smallest size of a window, in training standard deviations, and of a code: zeros alone have no size to divide by."""

FIRST_TO_LAST = "the bars after a window are predicted from the first to the last"
"""Why a predictor has no `reverse`."""


def root_mean_square(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the root mean square of each element of a batch over its present rows, in float32 at least.

    Args:
        values: (B, T, F).
        mask: (B, T) bool, True at present rows; None if all are present.

    Returns:
        (B, 1, 1), at least `SMALLEST_SIZE`.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return mean_of_windows(values.square(), mask).clamp(min=SMALLEST_SIZE**2).sqrt()[:, None, None]


class Autoencoder(nn.Module):
    """Encode windows (B, T, F) to codes (B, Z), and decode codes to windows.

    With `bridge.normalize_windows`, s times a window has s times its code and s times its reconstruction. The encoder
    reads the window in units of its own root mean square, the code gets that length, and the decoder's output for the
    code's direction is multiplied by it. This is reversible instance normalisation (Kim et al. 2022), except that the
    size passes through the bottleneck too, and means are kept. A model that has learned from calm windows then works
    on wild ones, which the bounded state of an LSTM could not follow.

    Args:
        encoder: (windows, mask) -> state (h, c), each (L, B, H).
        bridge: state -> code (B, Z), and code -> conditioning (B, C) and the decoder's first state.
        decoder: conditioning and first state -> windows (B, T, F).
        linear: linear maps that are added to the code and to the reconstruction; None: the LSTMs alone.
        predictor: a second decoder of the same sizes, from the same conditioning and first state to the bars after the
            window; None: there is none.
        horizon: P, bars after the window that it predicts, at least 1; 0 without a predictor.

    Raises:
        ValueError: the horizon does not go with the predictor, or the predictor writes the last bar first.
    """

    bridge: Bridge
    linear: LinearPath | None
    predictor: nn.Module | None

    def __init__(
        self,
        encoder: nn.Module,
        bridge: Bridge,
        decoder: nn.Module,
        linear: LinearPath | None = None,
        predictor: nn.Module | None = None,
        horizon: int = 0,
    ) -> None:
        super().__init__()
        if predictor is None and horizon:
            raise ValueError(f"predictor.horizon is {horizon}; it must be 0 without a predictor")
        if predictor is not None and horizon < 1:
            raise ValueError(f"predictor.horizon is {horizon}; it must be at least 1")
        if getattr(predictor, "reverse", False):
            raise ValueError(f"predictor.decoder.reverse is true; it must be false: {FIRST_TO_LAST}")
        self.encoder, self.bridge, self.decoder, self.linear = encoder, bridge, decoder, linear
        self.predictor, self.horizon = predictor, horizon
        self.code_size = bridge.code_size
        self.normalize_windows: bool = getattr(bridge, "normalize_windows", False)  # a user's own may not say

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode windows.

        Args:
            windows: (B, T, F), scaled features, floating point.
            mask: (B, T) bool, True at present bars; None if all are present.

        Returns:
            Codes (B, Z).

        Raises:
            ValueError: windows or mask do not fit; the message names value, bound and config key.
        """
        if self.normalize_windows:
            check_windows(windows, windows.shape[-1])
            if mask is not None:
                check_mask(mask, *windows.shape[:2])
            size = root_mean_square(windows, mask)
            code = self.bridge.encode(self.encoder((windows / size).to(windows.dtype), mask))
            exact = torch.promote_types(code.dtype, windows.dtype)  # under autocast codes are less precise than windows
            # (B, 1, 1) -> (B, 1): the code gets the window's size as its own
            return (code * (size / root_mean_square(code.unsqueeze(1))).squeeze(2)).to(exact)
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
        """Decode codes to windows. The decoder runs free and needs no truth unless `feeding` has coins.

        Args:
            code: (B, Z), floating point.
            window_size: T, at least 1.
            truth: (B, T, F), the true windows; only where coins may pick them.
            feeding: the steps that are fed the truth; None runs free.
            mask: (B, T) bool, True at bars to write; None writes all.

        Returns:
            Windows (B, T, F) in the order of time, finite but without meaning at absent bars.

        Raises:
            ValueError: an argument does not fit; the message names value, bound and config key.
        """
        if self.linear is None:
            return self._unroll(self.decoder, code, window_size, truth, feeding, mask)
        straight = self.linear.decode(code, window_size)
        rest = subtract_straight(truth, straight)
        return straight + self._unroll(self.decoder, code, window_size, rest, feeding, mask)

    def predict(
        self,
        code: Tensor,
        truth: Tensor | None = None,
        feeding: Feeding | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the P bars after the windows from their codes. It runs free unless `feeding` has coins.

        Args:
            code: (B, Z), floating point.
            truth: (B, P, F), the bars after the windows; only where coins may pick them.
            feeding: the steps that are fed the truth; None runs free.
            mask: (B, P) bool, True at bars to predict, which may be none of a window; None predicts all.

        Returns:
            Bars (B, P, F) in the order of time, finite but without meaning at absent bars.

        Raises:
            ValueError: the model has no predictor, or an argument does not fit; the message names value and bound.
        """
        if self.predictor is None:
            raise ValueError("predictor is none; it must be repeat, autoregressive or conditional to predict bars")
        if mask is not None:  # a decoder needs a bar to write: where there is none, its output is not looked at
            mask = mask | ~mask.any(dim=1, keepdim=True)
        return self._unroll(self.predictor, code, self.horizon, truth, feeding, mask)

    def _unroll(
        self,
        decoder: nn.Module,
        code: Tensor,
        bars: int,
        truth: Tensor | None,
        feeding: Feeding | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Decode codes (B, Z) to (B, bars, F) with one of the two decoders, in units of the windows."""
        if not self.normalize_windows:
            conditioning, state = self.bridge.decode(code)
            return decoder(conditioning, state, window_size=bars, truth=truth, feeding=feeding, mask=mask)
        check_code(code, self.code_size, "bridge.latent_dim")
        size = root_mean_square(code.unsqueeze(1))
        if truth is not None and truth.is_floating_point() and truth.shape[:1] == code.shape[:1] and truth.ndim == 3:
            truth = (truth / size.detach()).to(truth.dtype)  # any other is refused by the decoder
        conditioning, state = self.bridge.decode((code / size.squeeze(2)).to(code.dtype))
        made = decoder(conditioning, state, window_size=bars, truth=truth, feeding=feeding, mask=mask)
        return (made * size).to(code.dtype)

    @torch.no_grad()
    def start_from_components(self, mean: Tensor, components: Tensor, scale: float) -> None:
        """Make the model reconstruct as principal components do, by its linear path alone.

        The LSTMs keep their random weights. Only the two maps whose outputs are added to the linear path's are zeroed,
        so that the LSTMs add nothing at first, and every weight still learns.

        Args:
            mean: (T F,), mean of the flat windows.
            components: (T F, Z or fewer), orthonormal columns.
            scale: unit of the code, positive.

        Raises:
            ValueError: the model has no linear path.
        """
        if self.linear is None:
            raise ValueError("bridge.linear_path is none; it must be pca to start from principal components")
        self.linear.start_from(mean, components, scale)
        for name in ("bridge.to_code", "decoder.projection"):
            for weights in self.get_submodule(name).parameters():
                weights.zero_()

    def forward(self, windows: Tensor, mask: Tensor | None = None, feeding: Feeding | None = None) -> Tensor:
        """Reconstruct windows. Without `feeding` the decoder sees the code alone, never the true window.

        Args:
            windows: (B, T, F), scaled features, floating point.
            mask: (B, T) bool, True at present bars; None if all are present.
            feeding: the steps that are fed the truth; None runs free.

        Returns:
            Reconstructions (B, T, F), in the units of the windows.

        Raises:
            ValueError: windows, mask or coins do not fit; the message names value, bound and config key.
        """
        truth = windows if feeding is not None and feeding.coins is not None else None
        return self.decode(self.encode(windows, mask), windows.shape[1], truth, feeding, mask)
