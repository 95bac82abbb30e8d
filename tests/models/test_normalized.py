"""Windows in units of their own size: the model equals its plain twin, and s times a window has s times its code."""

import pytest
import torch
from conftest import slow_but

from refold.models import Autoencoder, Feeding, LatentBridge, LSTMEncoder
from refold.models.autoencoder import SMALLEST_SIZE
from tests import naive
from tests.models import parity

B, T, F, H, Z = 3, 6, 2, 4, 3


def make_bridge(**others):
    sizes = {"encoder_num_layers": 1, "encoder_state_size": 2 * H, "decoder_num_layers": 1, "decoder_hidden_size": H}
    settings = {"latent_dim": Z, "dropout": 0.0, "linear_path": "none", "normalize_windows": True}
    return LatentBridge(**{**settings, **sizes, **others})


def make_model(kind):
    encoder = LSTMEncoder(input_size=F, hidden_size=H, num_layers=1, dropout=0.0, bidirectional=True)
    decoder = parity.make_decoder(kind, F=F, Z=Z, H=H, L=1, reverse=True)
    return Autoencoder(encoder, make_bridge(), decoder).double()


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coin", parity.COINS)
@pytest.mark.parametrize("masked", slow_but([True], [False, True]))
@pytest.mark.parametrize("detach", [False, True])
def test_it_is_the_plain_twin(kind, coin, masked, detach):
    torch.manual_seed(0)
    parity.assert_twin(make_model(kind), naive.normalized, (B, T, F), coin=coin, masked=masked, detach=detach)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("times", [1e-3, 7.0, 1e4])
def test_a_larger_window_has_a_longer_code_and_a_larger_reconstruction(kind, times):
    model, windows = make_model(kind), torch.randn(B, T, F).double()
    torch.testing.assert_close(model.encode(times * windows), times * model.encode(windows), **parity.FLOAT64)
    torch.testing.assert_close(model(times * windows), times * model(windows), **parity.FLOAT64)
    lengths, sizes = (part.flatten(1).square().mean(1).sqrt() for part in (model.encode(windows), windows))
    torch.testing.assert_close(lengths, sizes, **parity.FLOAT64)


@pytest.mark.parametrize("kind", parity.DECODERS)
def test_every_weight_learns(kind):
    model, windows = make_model(kind), torch.randn(B, T, F).double()
    model(windows).square().sum().backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in model.parameters())


def test_sizes_keep_their_precision_under_autocast():
    model, windows = make_model(parity.DECODERS[0]).float(), 1e3 * torch.randn(B, T, F)
    with torch.autocast("cpu", torch.bfloat16):
        code, outputs = model.encode(windows), model(windows)
    assert code.dtype == outputs.dtype == torch.float32
    torch.testing.assert_close(code.square().mean(1), windows.square().mean((1, 2)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_window_of_zeros_has_the_smallest_size(dtype):
    model = make_model(parity.DECODERS[0]).to(dtype)
    outputs = model(torch.zeros(B, T, F, dtype=dtype))
    outputs.sum().backward()
    assert outputs.abs().max() < 100 * SMALLEST_SIZE
    assert all(weights.grad.isfinite().all() for weights in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(T, F), r"windows are \(6, 2\); they must be \(B, T, F\)"),
        (torch.zeros(B, T, F + 1), r"windows are \(3, 6, 3\); .*F = 2"),
        (torch.zeros(B, T, F, dtype=torch.int64), "windows are torch.int64"),
    ],
)
def test_what_is_no_window_is_refused_as_ever(given, message):
    with pytest.raises(ValueError, match=message):
        make_model(parity.DECODERS[0])(given)


@pytest.mark.parametrize("kind", parity.DECODERS[:2])
def test_a_truth_that_does_not_fit_is_refused_as_ever(kind):
    model, feeding = make_model(kind), Feeding(torch.ones(T, dtype=torch.bool), False, 0)
    truth = torch.zeros(B, T, F).double()
    for wrong in (truth[0], truth[:1], truth[:, 1:], truth[..., 1:], truth.long()):
        with pytest.raises(ValueError, match="truth is"):
            model.decode(torch.randn(B, Z).double(), T, wrong, feeding)


def test_weights_of_half_precision_give_half_precision():
    model = make_model(parity.DECODERS[0]).bfloat16()
    windows = torch.randn(B, T, F).bfloat16()
    assert model.encode(windows).dtype == model(windows).dtype == torch.bfloat16


def test_codes_of_another_width_are_refused_as_ever():
    for code in (torch.zeros(Z), torch.zeros(B, Z + 1)):
        with pytest.raises(ValueError, match=r"code is .*; it must be \(B, 3\)"):
            make_model(parity.DECODERS[0]).decode(code, T)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"linear_path": "pca"}, "bridge.linear_path is pca; with bridge.normalize_windows=true it must be none"),
        ({"latent_dim": 1}, "bridge.latent_dim is 1; with bridge.normalize_windows=true it must be at least 2"),
    ],
)
def test_settings_that_exclude_it_are_refused(others, message):
    with pytest.raises(ValueError, match=message):
        make_bridge(**others)
