"""A seed depends on its position alone."""

import torch

from refold.training.seeds import derive, generator


def test_seeds_differ_by_purpose_and_position_and_repeat():
    seeds = {derive(seed, purpose, step) for seed in (0, 1) for purpose in ("coins", "dropout") for step in range(50)}
    assert len(seeds) == 200
    assert derive(0, "coins", 1, 23) != derive(0, "coins", 12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(
        torch.rand(5, generator=generator(3, "coins", 4)), torch.rand(5, generator=generator(3, "coins", 4))
    )
