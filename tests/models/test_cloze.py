"""The cloze predicts each bar from the others in two passes; its plain twin reads both sides of each bar anew."""

import math

import pytest
import torch
from scipy.stats import t as student

from refold.models import Cloze
from refold.models.cloze import student_surprise
from tests import naive
from tests.models.parity import FLOAT64, make_mask


def cloze(*, F=3, H=4, L=1, margin=0, dropout=0.0, seed=0):
    """Make a float64 cloze with random weights."""
    torch.manual_seed(seed)
    return Cloze(num_features=F, hidden_size=H, num_layers=L, dropout=dropout, margin=margin).double()


@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_two_passes_are_the_twin_that_leaves_each_bar_out(L, margin, masked):
    model = cloze(L=L, margin=margin)
    windows = torch.randn(4, 7, 3, dtype=torch.float64, requires_grad=True)
    mask = make_mask(4, 7) if masked else None
    there = torch.ones(4, 7, dtype=torch.bool) if mask is None else mask
    results = []
    for predict in (model, lambda *given: naive.cloze(model, *given)):
        parts = torch.cat(predict(windows, mask), dim=2)[there]
        gradients = torch.autograd.grad(parts.sin().sum(), [windows, *model.parameters()])
        results.append((parts, *gradients))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, **FLOAT64)


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("margin", [0, 1])
def test_a_bar_does_not_change_its_own_prediction_and_changes_those_of_others(L, margin):
    model = cloze(L=L, margin=margin)
    windows = torch.randn(2, 6, 3, dtype=torch.float64)
    known = torch.cat(model(windows), dim=2)
    for bar in range(6):
        other = windows.clone()
        other[:, bar] += 10
        changed = (torch.cat(model(other), dim=2) != known).any(dim=2)
        hidden = torch.arange(6).sub(bar).abs() <= margin
        assert torch.equal(changed, ~hidden.expand(2, -1))


def test_an_absent_bar_does_not_exist():
    model = cloze(L=2)
    windows = torch.randn(1, 6, 3, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False, True]])
    spoilt = windows.masked_fill(~mask.unsqueeze(2), torch.nan)
    alone = torch.cat(model(windows[mask].unsqueeze(0)), dim=2)
    torch.testing.assert_close(torch.cat(model(spoilt, mask), dim=2)[mask], alone[0], **FLOAT64)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_short_windows_are_predicted_from_what_there_is(T):
    model = cloze(margin=2)
    mean, log_scale = model(torch.randn(2, T, 3, dtype=torch.float64))
    assert mean.shape == log_scale.shape == (2, T, 3)
    assert torch.equal(mean[0], mean[1])  # with so few bars all of them are hidden


def test_surprise_is_minus_the_log_of_students_density():
    values, mean = torch.tensor([[[0.3, -4.0]]], dtype=torch.float64), torch.tensor([[[0.1, 1.0]]], dtype=torch.float64)
    log_scale = torch.tensor([[[-0.5, 0.7]]], dtype=torch.float64)
    found = student_surprise(values, mean, log_scale, 4.0)
    expected = -student.logpdf(values.numpy(), 4.0, mean.numpy(), log_scale.exp().numpy())
    constant = student.logpdf(0.0, 4.0)
    torch.testing.assert_close(found, torch.from_numpy(expected + constant), **FLOAT64)
    assert math.isfinite(student_surprise(values * 1e9, mean, log_scale, 4.0).max())


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (torch.zeros(2, 5), r"windows are \(2, 5\); they must be \(B, T, F\)"),
        (torch.zeros(2, 5, 4), "F = 3"),
        (torch.zeros(2, 5, 3, dtype=torch.int64), "floating point"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        cloze()(windows)


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 0), ("num_layers", 0), ("dropout", 1.0), ("margin", -1), ("num_features", 0)]
)
def test_settings_out_of_bounds_are_refused(name, value):
    settings = {"num_features": 3, "hidden_size": 4, "num_layers": 2, "dropout": 0.0, "margin": 0, name: value}
    with pytest.raises(ValueError, match=f"cloze.{name} is {value}"):
        Cloze(**settings)
