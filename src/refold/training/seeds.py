"""Random numbers as pure functions of (seed, purpose, position): a resumed run draws what it would have drawn."""

import hashlib

import torch


def derive(seed: int, purpose: str, *position: int) -> int:
    """Derive a seed that is unrelated for any two purposes or positions.

    Args:
        seed: seed of the run, at least 0.
        purpose: a word for the use, such as "dropout".
        position: whole numbers that say where in the run, such as the optimizer step.

    Returns:
        In [0, 2^63).
    """
    text = "/".join(str(part) for part in (seed, purpose, *position))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Make a CPU generator for one purpose at one position.

    Args:
        seed: seed of the run, at least 0.
        purpose: a word for the use, such as "coins".
        position: whole numbers that say where in the run, such as the optimizer step.

    Returns:
        A generator seeded by `derive`.
    """
    return torch.Generator().manual_seed(derive(seed, purpose, *position))
