"""Windows with absent bars: indices that move the present bars together and back.

One rule holds for the encoder and every decoder: *an absent bar does not exist for the model*. A window with absent
bars, at its end (padding) or in its middle (a hole), gives the code and the reconstruction of the shorter window that
holds its present bars alone. Only `lengths_to_mask` waits for a GPU. Letters as in `refold.models`.

    mask         1 1 0 1 0        present bars a b - c -
    present_last                  - - a b c   so that a recurrent net ends at the last present bar
    decoding_order                a b c - -   or, reversed, c b a - -
"""

import torch
from torch import Tensor


def lengths_to_mask(lengths: Tensor, window_size: int) -> Tensor:
    """Make the mask of windows that are padded at their end.

    Args:
        lengths: (B,) of an integer type, numbers of present bars, in [1, T].
        window_size: T.

    Returns:
        (B, T) bool, True at present bars, on the device of lengths.

    Raises:
        ValueError: lengths are not (B,) or not of an integer type, or a length is below 1 or above T.
    """
    integer = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    if lengths.ndim != 1 or not integer:
        raise ValueError(
            f"lengths are {tuple(lengths.shape)}, {lengths.dtype}; they must be (B,), whole numbers in "
            f"[1, data.window_size = {window_size}]"
        )
    wrong = lengths[(lengths < 1) | (lengths > window_size)]
    if len(wrong):
        raise ValueError(f"a window has length {wrong[0].item()}; it must be in [1, data.window_size = {window_size}]")
    return torch.arange(window_size, device=lengths.device) < lengths[:, None]  # (T,) < (B, 1) -> (B, T)


def mean_of_windows(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average each window over its present bars and features.

    Args:
        values: (B, T, F), anything at absent bars.
        mask: (B, T) bool, True at present bars; None if all are present.

    Returns:
        (B,).
    """
    if mask is None:
        return values.mean(dim=(1, 2))
    bars = mask.sum(dim=1).clamp(min=1) * values.shape[2]
    return values.where(mask.unsqueeze(-1), 0).sum(dim=(1, 2)) / bars


def check_mask(mask: Tensor, batch_size: int, window_size: int) -> None:
    """Refuse a mask that does not fit its windows.

    Args:
        mask: to be (B, T) bool with at least one True in each row.
        batch_size: B.
        window_size: T.

    Raises:
        ValueError: the mask is not (B, T), not bool, or has a window without a present bar. On a GPU the last is
            asserted there, because reading it would wait for all the work queued: it is a CUDA error, and comes later.
    """
    if mask.shape != (batch_size, window_size):
        raise ValueError(f"mask is {tuple(mask.shape)}; it must be (B, T) = {(batch_size, window_size)} as the windows")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; it must be torch.bool, True at present bars")
    some_present = mask.any(dim=1)
    if mask.device.type == "cuda":
        check = torch._assert_async  # pyright: ignore[reportPrivateImportUsage]  torch has no public name for it
        check(some_present.all(), "a window has 0 present bars in its mask; it must have at least 1")
    elif not some_present.all():
        window = int((~some_present).nonzero()[0])
        raise ValueError(f"window {window} of the batch has 0 present bars in its mask; it must have at least 1")


def present_last(mask: Tensor) -> Tensor:
    """Find the order that moves each window's present bars to its end and keeps their order.

    Args:
        mask: (B, T) bool, True at present bars.

    Returns:
        (B, T) int64, an index for `take`.
    """
    return mask.to(torch.uint8).argsort(dim=1, stable=True)


def decoding_order(mask: Tensor, reverse: bool) -> Tensor:
    """Find the bar that each decoding step writes: present bars in their order, then the absent ones.

    Args:
        mask: (B, T) bool, True at present bars.
        reverse: True writes the present bars from the last to the first.

    Returns:
        (B, T) int64, an index for `take`.
    """
    if reverse:
        return mask.to(torch.uint8).argsort(dim=1, stable=True).flip(1)
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)


def inverse(index: Tensor) -> Tensor:
    """Find the index that undoes another one: take(take(x, index), inverse(index)) is x.

    Args:
        index: (B, T) int64, a permutation in each row.

    Returns:
        (B, T) int64.
    """
    return index.argsort(dim=1)


def take(sequence: Tensor, index: Tensor) -> Tensor:
    """Put the bars of each window in the order of its index.

    Args:
        sequence: (B, T, N).
        index: (B, T) int64.

    Returns:
        (B, T, N).
    """
    return sequence.gather(1, index.unsqueeze(2).expand(-1, -1, sequence.shape[2]))
