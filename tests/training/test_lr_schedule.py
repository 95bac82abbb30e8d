"""The factor of the learning rate over a training."""

import pytest

from refold.training.lr_schedule import ConstantRate, WarmupCosine


def test_warmup_then_cosine():
    schedule = WarmupCosine(warmup_fraction=0.2, final_ratio=0.1)
    assert [schedule(done) for done in (0, 0.1, 0.2, 0.6, 1.0, 1.5)] == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0.1])
    assert WarmupCosine(warmup_fraction=0.0, final_ratio=0.0)(0) == 1
    assert ConstantRate()(0.7) == 1


def test_bounds():
    with pytest.raises(ValueError, match=r"lr_schedule\.warmup_fraction is 1; it must be in \[0, 1\)"):
        WarmupCosine(warmup_fraction=1, final_ratio=0)
