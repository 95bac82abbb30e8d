"""A shuffled order that needs no memory: the element at a position is computed, not looked up.

A permutation of n numbers as an array costs 8n bytes, nearly half of the 5-feature float32 series that it orders.
Here the numbers 0..n-1 lie on a grid of a x b >= n cells, and row and column are shifted in turn by hashes of each
other (a Feistel network over Z_a x Z_b). Each shift can be undone, so all shifts together permute the grid. The few
numbers that land beyond n are sent through again until they land inside ("cycle walking"), so 0..n-1 are permuted.

Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 3 and 4.
"""

import math

import numpy as np

_ROUNDS = 8


def _hash(numbers: np.ndarray, key: int) -> np.ndarray:
    """Mix uint64 numbers with a key; unsigned arithmetic wraps. Source: finaliser of splitmix64, Steele et al. 2014."""
    mixed = numbers + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _shift(numbers: np.ndarray, by: np.ndarray, size: np.uint64) -> None:
    """Set numbers to (numbers + by) % size, in place.

    Args:
        numbers: uint64, below `size`.
        by: uint64 of the same shape; its values are overwritten.
        size: at least 1.
    """
    by -= by // size * size  # NumPy divides by a constant several times faster than it takes remainders
    numbers += by
    np.minimum(numbers, numbers - size, out=numbers)  # below 0 an unsigned difference wraps and is the larger one


def _round_keys(seed: int, epoch: int) -> list[int]:
    """Derive eight 64-bit keys from a seed and an epoch with NumPy's SeedSequence, which is documented as stable."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, dtype=np.uint64)
    return [int(word) for word in words]


def permute(positions: np.ndarray, size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the elements at some positions of a random permutation of 0..size-1.

    Args:
        positions: int64 of any shape, each in [0, size).
        size: number of elements, at least 1.
        seed: at least 0.
        epoch: at least 0. Seed and epoch fix the permutation.

    Returns:
        int64 of the shape of `positions`.
    """
    rows = np.uint64(max(1, math.isqrt(size - 1) + 1))  # ceil(sqrt(size))
    columns = np.uint64(max(1, -(-size // int(rows))))
    keys = _round_keys(seed, epoch)
    flat = positions.astype(np.uint64).reshape(-1)
    outside = np.arange(flat.size)
    while outside.size:
        cell = flat[outside]
        row = cell // columns
        column = cell - row * columns
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            _shift(row, _hash(column, even), rows)
            _shift(column, _hash(row, odd), columns)
        cell = row * columns + column
        flat[outside] = cell
        outside = outside[cell >= np.uint64(size)]
    return flat.reshape(positions.shape).astype(np.int64)
