"""Random numbers as pure functions of (seed, purpose, position): a resumed run draws what it would have drawn."""

import hashlib

import torch


def derive(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed that is unrelated for any two purposes or positions."""
    text = "/".join(str(part) for part in (seed, purpose, *position))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator of its own for one purpose at one position."""
    return torch.Generator().manual_seed(derive(seed, purpose, *position))
