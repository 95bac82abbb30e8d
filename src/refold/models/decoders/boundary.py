"""Checks of what comes into a decoder, and the way of bars into the order of decoding and back."""

import torch
from torch import Tensor

from refold.models.fused import State
from refold.models.masks import check_mask, decoding_order, inverse, take


def check_inputs(
    *,
    conditioning: Tensor,
    state: State,
    window_size: int,
    truth: Tensor | None,
    mask: Tensor | None,
    sizes: tuple[int, int, int, int],
) -> None:
    """Refuse arguments that do not fit a decoder.

    Args:
        conditioning: to be (B, C), floating point.
        state: to be (h, c), each (L, B, H), of the conditioning's type.
        window_size: T, at least 1.
        truth: to be (B, T, F), floating point, or None.
        mask: to be (B, T) bool, or None.
        sizes: L, H, C and F of the decoder.

    Raises:
        ValueError: one does not fit; the message names it, its shape, the shape that it must have and the config key.
    """
    num_layers, hidden_size, conditioning_size, output_size = sizes
    if window_size < 1:
        raise ValueError(f"window_size is {window_size}; it must be at least 1 (data.window_size)")
    if conditioning.ndim != 2 or conditioning.shape[1] != conditioning_size or not conditioning.is_floating_point():
        raise ValueError(
            f"conditioning is {tuple(conditioning.shape)}, {conditioning.dtype}; it must be (B, {conditioning_size}), "
            "floating point (bridge.latent_dim; under bridge=states decoder.hidden_size)"
        )
    B, dtype = conditioning.shape[0], conditioning.dtype
    mixed = torch.is_autocast_enabled(conditioning.device.type)  # a code in float32, a state in bf16
    for name, part in zip("hc", state, strict=True):
        if part.shape != (num_layers, B, hidden_size):
            raise ValueError(
                f"{name} of the first state is {tuple(part.shape)}; it must be (L, B, H) = "
                f"{(num_layers, B, hidden_size)} (decoder.num_layers, decoder.hidden_size)"
            )
        if not part.is_floating_point() or (part.dtype != dtype and not mixed):
            raise ValueError(
                f"{name} of the first state is {part.dtype}; it must be floating point, {dtype} as the conditioning "
                "(trainer.precision)"
            )
    if truth is not None and (truth.shape != (B, window_size, output_size) or not truth.is_floating_point()):
        raise ValueError(
            f"truth is {tuple(truth.shape)}, {truth.dtype}; it must be (B, T, F) = {(B, window_size, output_size)}, "
            "floating point (data.window_size, data.features)"
        )
    if mask is not None:
        check_mask(mask, B, window_size)


def to_decoding_order(truth: Tensor | None, mask: Tensor | None, reverse: bool) -> Tensor | None:
    """Put the truth into the order of decoding. Absent bars, which may hold NaN, are set to 0 and come last.

    Args:
        truth: (B, T, F) in the order of time, or None.
        mask: (B, T) bool, True at present bars; None if all are present.
        reverse: True decodes from the last present bar to the first.

    Returns:
        (B, T, F), or None without a truth.
    """
    if truth is None:
        return None
    if mask is not None:
        return take(truth.masked_fill(~mask.unsqueeze(2), 0.0), decoding_order(mask, reverse))
    return truth.flip(1) if reverse else truth


def to_time_order(outputs: Tensor, mask: Tensor | None, reverse: bool) -> Tensor:
    """Put outputs back into the order of time.

    Args:
        outputs: (B, T, F) in the order of decoding.
        mask: (B, T) bool, True at present bars; None if all are present.
        reverse: True if the last present bar was decoded first.

    Returns:
        (B, T, F).
    """
    if mask is not None:
        return take(outputs, inverse(decoding_order(mask, reverse)))
    return outputs.flip(1) if reverse else outputs
