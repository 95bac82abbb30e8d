"""The reported error is the plain one, whatever the batches, masks and processes."""

import pytest
import torch

from refold.training.reconstruction_metrics import PredictionError, ReconstructionError


def test_it_equals_the_plain_formulas_over_uneven_batches():
    torch.manual_seed(0)
    windows, made = torch.randn(13, 7, 3) + 5, torch.randn(13, 7, 3) + 5
    error = ReconstructionError(3)
    for part in (slice(0, 8), slice(8, 13)):
        error.update(made[part], windows[part], None)
    result = error.compute()
    deviation = (windows - windows.mean(dim=(0, 1))).square().sum()
    assert result["reconstruction_mse"].item() == pytest.approx((made - windows).square().mean().item(), rel=1e-6)
    assert result["reconstruction_mae"].item() == pytest.approx((made - windows).abs().mean().item(), rel=1e-6)
    assert result["r2"].item() == pytest.approx(1 - ((made - windows).square().sum() / deviation).item(), rel=1e-5)


def test_absent_bars_count_for_nothing():
    torch.manual_seed(0)
    windows, made = torch.randn(4, 6, 2), torch.randn(4, 6, 2)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, 4:] = False
    masked, short = ReconstructionError(2), ReconstructionError(2)
    masked.update(made, windows, mask)
    short.update(made[:, :4], windows[:, :4], None)
    for name, value in short.compute().items():
        assert masked.compute()[name].item() == pytest.approx(value.item(), rel=1e-9)


def test_predicting_the_mean_of_what_was_seen_scores_zero():
    windows = torch.randn(5, 4, 2)
    error = ReconstructionError(2)
    error.update(windows.mean(dim=(0, 1)).expand_as(windows), windows, None)
    assert error.compute()["r2"].item() == pytest.approx(0, abs=1e-6)


def test_predictions_are_measured_step_by_step_and_together():
    torch.manual_seed(0)
    bars, made = torch.randn(13, 3, 2) + 5, torch.randn(13, 3, 2) + 5
    mask = torch.rand(13, 3) < 0.7
    error = PredictionError(2, 3)
    for part in (slice(0, 8), slice(8, 13)):
        error.update(made[part], bars[part], mask[part])
    found = error.compute()
    assert list(found) == ["prediction_mse", "prediction_r2", "prediction_r2_1", "prediction_r2_2", "prediction_r2_3"]
    assert found["prediction_mse"].item() == pytest.approx((made - bars)[mask].square().mean().item(), rel=1e-6)
    for place in range(3):
        there, own = bars[mask[:, place], place], made[mask[:, place], place]
        r2 = 1 - ((own - there).square().sum() / (there - there.mean(dim=0)).square().sum()).item()
        assert found[f"prediction_r2_{place + 1}"].item() == pytest.approx(r2, rel=1e-5)
    error.reset()
    assert error.together.bars == error.steps[0].bars == 0
