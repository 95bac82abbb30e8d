import pytest
import torch

from refold.data import Scaler
from refold.errors import DataError


def test_training_rows_get_mean_zero_and_deviation_one():
    rows = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1e-4]) + 7
    scaled = Scaler.fit(rows.double(), ["a", "b"]).transform(rows.double())
    assert scaled.mean(dim=0) == pytest.approx([0, 0], abs=1e-9)
    assert scaled.std(dim=0, correction=0) == pytest.approx([1, 1], abs=1e-9)


def test_inverse_gives_the_values_back():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    scaler = Scaler.fit(rows, ["a", "b", "c"])
    windows = torch.randn(4, 8, 3)
    assert torch.allclose(scaler.inverse_transform(scaler.transform(windows)), windows, atol=1e-6)
    assert scaler.transform(windows).dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 5.0, -1e9, 0.1])
def test_a_constant_feature_is_named(value):
    rows = torch.stack([torch.arange(100.0).double(), torch.full((100,), value, dtype=torch.float64)], dim=1)
    with pytest.raises(DataError, match=r"data.features has flat, which is constant \(.*\) on the 100 training rows"):
        Scaler.fit(rows, ["moving", "flat"])


def test_state_comes_back():
    scaler = Scaler.fit(torch.randn(50, 3), ["a", "b", "c"])
    again = Scaler.from_state_dict(scaler.state_dict())
    assert torch.equal(again.mean, scaler.mean)
    assert torch.equal(again.std, scaler.std)
