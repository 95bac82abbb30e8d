"""Windows with absent bars: where the present bars of each window go, and how they come back.

One rule holds for the encoder and every decoder: *an absent bar does not exist for the model*. A window with absent
bars, whether at its end (padding) or in its middle (a hole), gives the code and the reconstruction of the shorter
window that holds its present bars alone. All functions here work on indices (B, T) and wait for no GPU.

    mask         1 1 0 1 0        present bars a b - c -
    present_last                  - - a b c   so that a recurrent net ends at the last present bar
    decoding_order                a b c - -   or, reversed, c b a - -
"""

import torch
from torch import Tensor


def lengths_to_mask(lengths: Tensor, window_size: int) -> Tensor:
    """Mask of windows that are padded at their end.

    Args: lengths: (B,) whole numbers of present bars. window_size: T.
    Returns: (B, T) bool, True at present bars, on the device of lengths.
    Raises: ValueError: a length is below 1 or above T.
    """
    wrong = lengths[(lengths < 1) | (lengths > window_size)]
    if len(wrong):
        raise ValueError(f"a window has length {wrong[0].item()}; it must be in [1, data.window_size = {window_size}]")
    return torch.arange(window_size, device=lengths.device) < lengths[:, None]  # (T,) < (B, 1) -> (B, T)


def check_mask(mask: Tensor, batch_size: int, window_size: int) -> None:
    """Refuse a mask that does not fit its windows.

    Raises: ValueError: the mask is not (B, T), not bool, or has a window without a present bar. The last is looked
        for on the CPU only: reading it from a GPU would wait for all the work queued there. On a GPU such a window
        counts as one of which nothing is known: its code is that of the zero state.
    """
    if mask.shape != (batch_size, window_size):
        raise ValueError(f"mask is {tuple(mask.shape)}; it must be (B, T) = {(batch_size, window_size)} as the windows")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; it must be torch.bool, True at present bars")
    if mask.device.type == "cpu" and not mask.any(dim=1).all():
        window = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"window {window} of the batch has 0 present bars in its mask; it must have at least 1")


def present_last(mask: Tensor) -> Tensor:
    """Index (B, T) that moves each window's present bars to its end and keeps their order."""
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def decoding_order(mask: Tensor, reverse: bool) -> Tensor:
    """Index (B, T) of the bar that each decoding step writes: present bars in their order, then the absent ones."""
    if reverse:
        return mask.to(torch.uint8).argsort(dim=1, stable=True).flip(1)
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)


def inverse(index: Tensor) -> Tensor:
    """Index (B, T) that undoes another one: take(take(x, index), inverse(index)) is x."""
    return index.argsort(dim=1)


def take(sequence: Tensor, index: Tensor) -> Tensor:
    """Bars of each window in the order of its index: (B, T, N) by (B, T) -> (B, T, N)."""
    return sequence.gather(1, index.unsqueeze(2).expand(-1, -1, sequence.shape[2]))
