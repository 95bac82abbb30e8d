"""Losses per value, and their mean over what is present."""

import pytest
import torch

from refold.training.losses import AbsoluteErrorLoss, HuberLoss, SquaredErrorLoss, WindowLogLoss, mean_over_present


def test_losses_by_hand():
    made, windows = torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[0.5, 2.0]]])
    assert SquaredErrorLoss()(made, windows, None).flatten().tolist() == [0.25, 9.0]
    assert AbsoluteErrorLoss()(made, windows, None).flatten().tolist() == [0.5, 3.0]
    assert HuberLoss(delta=1.0)(made, windows, None).flatten().tolist() == [0.125, 2.5]
    with pytest.raises(ValueError, match=r"loss\.delta is 0; it must be greater than 0"):
        HuberLoss(delta=0)


def test_absent_bars_neither_count_nor_poison():
    values = torch.tensor([[[1.0], [3.0], [float("inf")]]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    mean = mean_over_present(values, mask)
    mean.backward()
    assert mean.item() == 2
    assert values.grad.flatten().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("padded", [False, True])
def test_a_window_counts_in_units_of_its_own_error(padded):
    made, windows = torch.tensor([[[1.0], [3.0]], [[10.0], [30.0]]], requires_grad=True), torch.zeros(2, 2, 1)
    mask = None
    values = made
    if padded:  # no loss depends on the values at absent bars
        values = torch.cat([made, torch.full((2, 1, 1), float("nan"))], dim=1)
        windows, mask = torch.zeros(2, 3, 1), torch.tensor([[True, True, False]] * 2)
    loss = WindowLogLoss(scale=0.5)
    per_value = loss(values, windows, mask)
    errors = torch.tensor([5.0, 500.0])
    assert torch.allclose(per_value[:, 0, 0], torch.log(1 + errors / 0.5))
    assert per_value.shape == windows.shape
    (gradient,) = torch.autograd.grad(mean_over_present(per_value, mask), made)
    # the gradient of a plain squared error would be made / 2
    expected = made.detach() / 2 * (loss.window_weights(errors) / 0.5)[:, None, None]
    assert torch.allclose(gradient, expected)


def test_an_infinite_scale_is_the_squared_error_and_bounds_are_held():
    made, windows = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    expected = SquaredErrorLoss()(made, windows, None).mean(dim=(1, 2))
    assert torch.allclose(1e3 * WindowLogLoss(scale=1e3)(made, windows, None)[:, 0, 0], expected, rtol=1e-2)
    with pytest.raises(ValueError, match=r"loss\.scale is 0; it must be greater than 0"):
        WindowLogLoss(scale=0)
