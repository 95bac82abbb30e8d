"""Losses per value, and their mean over what is present."""

import pytest
import torch

from refold.training.losses import AbsoluteError, Huber, SquaredError, mean_over_present


def test_losses_by_hand():
    made, windows = torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[0.5, 2.0]]])
    assert SquaredError()(made, windows).flatten().tolist() == [0.25, 9.0]
    assert AbsoluteError()(made, windows).flatten().tolist() == [0.5, 3.0]
    assert Huber(delta=1.0)(made, windows).flatten().tolist() == [0.125, 2.5]
    with pytest.raises(ValueError, match=r"loss\.delta is 0; it must be greater than 0"):
        Huber(delta=0)


def test_absent_bars_neither_count_nor_poison():
    values = torch.tensor([[[1.0], [3.0], [float("inf")]]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    mean = mean_over_present(values, mask)
    mean.backward()
    assert mean.item() == 2
    assert values.grad.flatten().tolist() == [0.5, 0.5, 0.0]
