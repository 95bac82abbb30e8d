"""The linear path beside the LSTMs equals its plain twin, starts as PCA, and takes windows of one size."""

import pytest
import torch
from conftest import slow_but

from refold.models import Autoencoder, Feeding, LatentBridge, LinearPath, LSTMEncoder
from tests import naive
from tests.models import parity

B, T, F, H, Z = 3, 6, 2, 4, 2


def make_model(kind=parity.DECODERS[0], *, bidirectional=False, reverse=False, L=1):
    encoder = LSTMEncoder(input_size=F, hidden_size=H, num_layers=L, dropout=0.0, bidirectional=bidirectional)
    bridge = LatentBridge(
        latent_dim=Z,
        dropout=0.0,
        linear_path="pca",
        normalize_windows=False,
        encoder_num_layers=L,
        encoder_state_size=encoder.state_size,
        decoder_num_layers=L,
        decoder_hidden_size=H,
    )
    linear = LinearPath(window_size=T, num_features=F, code_size=Z)
    decoder = parity.make_decoder(kind, F=F, Z=Z, H=H, L=L, reverse=reverse)
    return Autoencoder(encoder, bridge, decoder, linear).double()


def make_components(kept=Z):
    """Make a mean (T F,) and orthonormal components (T F, kept), float64."""
    return torch.randn(T * F).double(), torch.linalg.qr(torch.randn(T * F, kept).double()).Q


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coin", parity.COINS)
@pytest.mark.parametrize("masked", slow_but([True], [False, True]))
@pytest.mark.parametrize(("L", "reverse", "detach", "T"), [(1, True, False, 6), (2, False, True, 4)])
def test_it_is_the_plain_twin(kind, coin, masked, L, reverse, detach, T):
    torch.manual_seed(0)
    model = make_model(kind, bidirectional=masked, reverse=reverse, L=L)  # of up to 6 bars
    parity.assert_twin(model, naive.autoencode, (B, T, F), coin=coin, masked=masked, detach=detach)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coins", [None, torch.ones(T, dtype=torch.bool)])
def test_it_starts_as_the_projection_on_the_components(kind, coins):
    """Check that the decoder's part is 0, whether it is fed the truth or not."""
    model, windows = make_model(kind), torch.randn(B, T, F).double()
    mean, components = make_components()
    model.start_from_components(mean, components, 3.0)
    centred = windows.flatten(1) - mean
    torch.testing.assert_close(model.encode(windows), centred @ components / 3, **parity.FLOAT64)
    expected = (centred @ components @ components.T + mean).view(B, T, F)
    torch.testing.assert_close(model(windows, feeding=Feeding(coins, False, 0)), expected, **parity.FLOAT64)


def test_numbers_of_the_code_beyond_the_components_stay_out_of_the_path():
    model, windows = make_model(), torch.randn(B, T, F).double()
    mean, components = make_components(kept=1)
    model.start_from_components(mean, components, 1.0)
    assert not model.encode(windows)[:, 1].any()
    expected = ((windows.flatten(1) - mean) @ components @ components.T + mean).view(B, T, F)
    torch.testing.assert_close(model(windows), expected, **parity.FLOAT64)


@pytest.mark.parametrize("kind", parity.DECODERS)
def test_from_there_every_weight_learns(kind):
    model, windows = make_model(kind), torch.randn(B, T, F).double()
    model.start_from_components(*make_components(), 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):  # no gradient at first: maps start at 0, and the rest is orthogonal to the components
        before = [weights.clone() for weights in model.parameters()]
        optimizer.zero_grad()
        (model(windows) - windows).square().mean().backward()
        optimizer.step()
    for (name, weights), old in zip(model.named_parameters(), before, strict=True):
        assert not torch.equal(weights, old), name


def test_longer_windows_are_refused():
    message = r"windows have 7 bars; under bridge.linear_path=pca they must have at most 6 \(data.window_size\)"
    with pytest.raises(ValueError, match=message):
        make_model()(torch.randn(B, 7, F).double())
    with pytest.raises(ValueError, match=message):
        make_model().decode(torch.randn(B, Z).double(), 7)


def test_a_truth_of_another_shape_is_refused():
    feeding = Feeding(torch.ones(T, dtype=torch.bool), False, 0)
    with pytest.raises(ValueError, match=r"truth is \(3, 6, 3\); it must be \(B, T, F\) = \(3, 6, 2\)"):
        make_model().decode(torch.randn(B, Z).double(), T, torch.randn(B, T, F + 1).double(), feeding)
