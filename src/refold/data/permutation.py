"""A shuffled order that needs no memory: where position i goes is computed, not looked up.

A permutation of n numbers as an array costs 8n bytes, nearly half of the 5-feature float32 series that it orders.
Here the numbers 0..n-1 are laid on a grid of a x b >= n cells, and row and column are shifted in turn by hashes of each
other (a Feistel network over Z_a x Z_b). Each shift can be undone, so the whole is a permutation of the grid; the few
numbers that land beyond n are sent through again until they land inside ("cycle walking"), which keeps it one.

Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 3 and 4.
"""

import math

import numpy as np

_ROUNDS = 8


def _hash(numbers: np.ndarray, key: int) -> np.ndarray:
    """Mix uint64 numbers with a key; unsigned arithmetic wraps. Source: splitmix64's finaliser (Steele et al. 2014)."""
    mixed = numbers + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> list[int]:
    """Eight 64-bit keys from a seed and an epoch, by NumPy's documented and stable SeedSequence."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, dtype=np.uint64)
    return [int(word) for word in words]


def permute(positions: np.ndarray, size: int, *, seed: int, epoch: int) -> np.ndarray:
    """The elements at some positions of a random permutation of 0..size-1, fixed by seed and epoch.

    Args: positions: int64, each in [0, size). Returns: int64 of the same shape.
    """
    rows = max(1, math.isqrt(size - 1) + 1)  # ceil(sqrt(size))
    columns = max(1, -(-size // rows))
    keys = _round_keys(seed, epoch)
    result = positions.astype(np.uint64)
    outside = np.arange(result.size)
    flat = result.reshape(-1)
    while outside.size:
        row, column = np.divmod(flat[outside], np.uint64(columns))
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            row = (row + _hash(column, even) % np.uint64(rows)) % np.uint64(rows)
            column = (column + _hash(row, odd) % np.uint64(columns)) % np.uint64(columns)
        flat[outside] = row * np.uint64(columns) + column
        outside = outside[flat[outside] >= np.uint64(size)]
    return flat.reshape(positions.shape).astype(np.int64)
