"""The models that this project grew from equal their restatements in tests/naive.py to 1e-10, in float64."""

import pytest
import torch
from conftest import CONF, compose_run
from torch import nn

from refold.config.build import build_module
from refold.models import (
    Autoencoder,
    AutoregressiveDecoder,
    ConditionalDecoder,
    Feeding,
    LatentBridge,
    LSTMEncoder,
    StatesBridge,
)
from tests import naive
from tests.models import parity

B, T, F, H, Z = 4, 9, 3, 5, 2


def states_model(L=1):
    """Make Refold's form of the first three: bridge=states, decoder=autoregressive, start_token=zeros."""
    return Autoencoder(
        LSTMEncoder(input_size=F, hidden_size=H, num_layers=L, dropout=0.0, bidirectional=False),
        StatesBridge(encoder_num_layers=L, encoder_state_size=H, decoder_num_layers=L, decoder_hidden_size=H),
        AutoregressiveDecoder(
            output_size=F,
            conditioning_size=H,
            hidden_size=H,
            num_layers=L,
            dropout=0.0,
            reverse=False,
            start_token="zeros",
        ),
    ).double()


def copied(model, plain):
    """Make the plain twin with the weights of the Refold model."""
    names = {"encoder": model.encoder.lstm, "decoder": model.decoder.lstm, "linear": model.decoder.projection}
    for name, module in names.items():
        getattr(plain, name).load_state_dict(module.state_dict())
    return plain.double()


EXPERIMENTS = {"keras_states": 1.0, "zero_start_autoregressive": 0.0, "teacher_forcing_ratio": 0.5}


def configured(experiment, ratio):
    """Make the float64 model of `experiment=...` and its feeding, as a training step has them."""
    module = build_module(compose_run([f"experiment={experiment}", f"layers.hidden_size={H}"]), F)
    model, forcing = module.autoencoder.double(), module.teacher_forcing
    assert isinstance(model.bridge, StatesBridge)
    assert isinstance(model.decoder, AutoregressiveDecoder)
    assert model.encoder.num_layers == model.decoder.num_layers == 1
    assert model.encoder.lstm.dropout == model.decoder.lstm.dropout == 0
    learned = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert learned == {"encoder.lstm", "decoder.lstm", "decoder.projection"}  # the start token is not
    assert [forcing.ratio(step) for step in (0, 7, 10**6)] == [ratio] * 3
    feeding = forcing.feeding(7, batch_size=B, window_size=T)
    assert feeding._replace(coins=None) == Feeding(None, detach_feedback=False, parallel_passes=0)
    return model, forcing, feeding


def test_configured_keras_states():
    model, _, feeding = configured("keras_states", EXPERIMENTS["keras_states"])
    assert feeding.coins.tolist() == [True] * T
    check_keras_states(model, feeding)


def test_configured_zero_start_autoregressive():
    model, _, feeding = configured("zero_start_autoregressive", EXPERIMENTS["zero_start_autoregressive"])
    assert feeding.coins is None
    check_stepwise(model, feeding, [False] * T)


def test_configured_teacher_forcing_ratio():
    model, forcing, feeding = configured("teacher_forcing_ratio", EXPERIMENTS["teacher_forcing_ratio"])
    assert feeding.coins.shape == (T,)
    assert set(feeding.coins[1:].tolist()) == {True, False}
    many = forcing.feeding(0, batch_size=B, window_size=10_000).coins
    assert many.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 100)  # five standard errors
    assert (many[1:] != many[:-1]).float().mean().item() > 0.4  # a coin at each bar: runs are those of chance
    check_stepwise(model, feeding, feeding.coins.tolist())


def test_every_experiment_with_a_twin_is_held_to_it():
    files = (CONF / "experiment").glob("*.yaml")
    assert {path.stem for path in files if "override /bridge: states" in path.read_text()} == set(EXPERIMENTS)


def check_stepwise(model, feeding, coins):
    plain = copied(model, naive.StepwiseSeq2Seq(F, H, 1))
    check_outputs_and_gradients(model, plain, torch.randn(B, T, F).double(), feeding, torch.tensor(coins))


def test_keras_states():
    torch.manual_seed(0)
    check_keras_states(states_model(), Feeding(torch.ones(T, dtype=torch.bool), False, 0))


def check_keras_states(model, feeding):
    plain = naive.KerasStates(F, H).double()
    pairs = []  # (our weight, the same in Keras' layout)
    with torch.no_grad():
        for side, lstm in (("encoder", model.encoder.lstm), ("decoder", model.decoder.lstm)):
            getattr(plain, f"{side}_kernel").copy_(lstm.weight_ih_l0.t())
            getattr(plain, f"{side}_recurrent_kernel").copy_(lstm.weight_hh_l0.t())
            getattr(plain, f"{side}_bias").copy_(lstm.bias_ih_l0 + lstm.bias_hh_l0)  # Keras has one bias
        plain.dense_kernel.copy_(model.decoder.projection.weight.t())
        plain.dense_bias.copy_(model.decoder.projection.bias)
    windows = torch.randn(B, T, F).double()
    shifted = torch.cat([torch.zeros(B, 1, F).double(), windows[:, :-1]], dim=1)
    outputs, expected = model(windows, feeding=feeding), plain(windows, shifted)
    torch.testing.assert_close(outputs, expected, **parity.FLOAT64)
    for loss in (outputs, expected):
        (loss - windows).square().mean().backward()
    for side, lstm in (("encoder", model.encoder.lstm), ("decoder", model.decoder.lstm)):
        pairs += [
            (lstm.weight_ih_l0.grad.t(), getattr(plain, f"{side}_kernel").grad),
            (lstm.weight_hh_l0.grad.t(), getattr(plain, f"{side}_recurrent_kernel").grad),
            (lstm.bias_ih_l0.grad, getattr(plain, f"{side}_bias").grad),
            (lstm.bias_hh_l0.grad, getattr(plain, f"{side}_bias").grad),
        ]
    pairs += [
        (model.decoder.projection.weight.grad.t(), plain.dense_kernel.grad),
        (model.decoder.projection.bias.grad, plain.dense_bias.grad),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **parity.FLOAT64)


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])  # 0: zero_start_autoregressive; else: teacher_forcing_ratio
def test_zero_start_autoregressive_and_teacher_forcing_ratio(L, ratio):
    torch.manual_seed(0)
    model = states_model(L)
    plain = copied(model, naive.StepwiseSeq2Seq(F, H, L))
    windows, coins = torch.randn(B, T, F).double(), torch.rand(T) < ratio
    feeding = Feeding(coins, False, 0) if ratio else None
    check_outputs_and_gradients(model, plain, windows, feeding, coins)


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_previous_output_and_latent_vector_concatenated(L, ratio):
    torch.manual_seed(0)
    model = states_model(L)
    model.bridge = LatentBridge(
        latent_dim=Z,
        dropout=0.0,
        linear_path="none",
        normalize_windows=False,
        encoder_num_layers=L,
        encoder_state_size=H,
        decoder_num_layers=L,
        decoder_hidden_size=H,
    )
    model.decoder = ConditionalDecoder(
        output_size=F,
        conditioning_size=Z,
        hidden_size=H,
        num_layers=L,
        dropout=0.0,
        reverse=False,
        start_token="zeros",
    )
    model = model.double()
    plain = naive.StepwiseSeq2Seq(F, H, L, latent_size=Z)
    plain.to_latent.load_state_dict(model.bridge.to_code.state_dict())
    plain.from_latent.load_state_dict(model.bridge.to_state.state_dict())
    plain = copied(model, plain)
    windows, coins = torch.randn(B, T, F).double(), torch.rand(T) < ratio
    check_outputs_and_gradients(model, plain, windows, Feeding(coins, False, 0), coins)


def check_outputs_and_gradients(model, plain, windows, feeding, coins):
    outputs, expected = model(windows, feeding=feeding), plain(windows, coins.tolist())
    torch.testing.assert_close(outputs, expected, **parity.FLOAT64)
    for loss in (outputs, expected):
        (loss - windows).square().mean().backward()
    pairs = [
        (model.encoder.lstm, plain.encoder),
        (model.decoder.lstm, plain.decoder),
        (model.decoder.projection, plain.linear),
    ]
    if hasattr(plain, "to_latent"):
        pairs += [(model.bridge.to_code, plain.to_latent), (model.bridge.to_state, plain.from_latent)]
    for ours, theirs in pairs:
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight.grad, other.grad, **parity.FLOAT64, msg=lambda m, n=name: f"{n}: {m}")


def assert_windows_are_apart(model, windows):
    """Check that the reconstruction of a window does not depend on its neighbours in the batch."""
    changed = windows.clone()
    changed[0] += 1.0
    torch.testing.assert_close(model(changed)[1:], model(windows)[1:], **parity.FLOAT64)


@pytest.mark.parametrize("L", [1, 2])
def test_states_have_three_dimensions_and_a_fourth_is_refused(L):
    model, windows = states_model(L), torch.randn(B, T, F).double()
    h, c = model.encoder(windows, None)
    assert h.shape == c.shape == (L, B, H)
    once_too_often = h.unsqueeze(0), c.unsqueeze(0)  # as circulating versions do
    with pytest.raises(ValueError, match=rf"h of the first state is \(1, {L}, {B}, {H}\); it must be \(L, B, H\)"):
        model.decoder(h[-1], once_too_often, window_size=T, truth=None, feeding=None, mask=None)


def test_data_is_batch_first_and_the_time_first_version_fails_the_same_test():
    windows = torch.randn(B, T, F).double()
    assert_windows_are_apart(states_model(), windows)

    time_first = nn.LSTM(F, H).double()  # batch_first left out, as in circulating versions: it reads B as time
    with pytest.raises(AssertionError, match="not close"):
        assert_windows_are_apart(lambda batch: time_first(batch)[0], windows)
