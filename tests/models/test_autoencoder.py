"""The whole model: its shapes, what its decoder gets, what it refuses, and that it needs torch alone."""

import subprocess
import sys

import pytest
import torch

from refold.models import (
    Autoencoder,
    AutoregressiveDecoder,
    ConditionalDecoder,
    Feeding,
    LatentBridge,
    LSTMEncoder,
    RepeatDecoder,
    StatesBridge,
)
from tests.models import parity

B, T, F, Z = 3, 5, 2, 4
DECODER = {"output_size": F, "conditioning_size": Z, "hidden_size": 6, "num_layers": 1, "dropout": 0.0}
FED_BACK = {"reverse": False, "start_token": "zeros"}
ENCODER = {"input_size": F, "hidden_size": 6, "num_layers": 1, "dropout": 0.0, "bidirectional": False}
STATES = {"encoder_num_layers": 1, "encoder_state_size": 6, "decoder_num_layers": 1, "decoder_hidden_size": 6}


def make_model(kind=AutoregressiveDecoder, *, encoder_layers=1, decoder_layers=1, bidirectional=False):
    encoder = LSTMEncoder(**{**ENCODER, "num_layers": encoder_layers, "bidirectional": bidirectional})
    bridge = LatentBridge(
        latent_dim=Z,
        dropout=0.0,
        linear_path="none",
        normalize_windows=False,
        encoder_num_layers=encoder_layers,
        encoder_state_size=encoder.state_size,
        decoder_num_layers=decoder_layers,
        decoder_hidden_size=6,
    )
    extra = {"reverse": False} if kind is RepeatDecoder else FED_BACK
    return Autoencoder(encoder, bridge, kind(**{**DECODER, "num_layers": decoder_layers}, **extra))


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("encoder_layers", "decoder_layers"), [(1, 1), (2, 1), (1, 3), (4, 4)])
def test_shapes_and_every_weight_learns(kind, bidirectional, encoder_layers, decoder_layers):
    model = make_model(kind, encoder_layers=encoder_layers, decoder_layers=decoder_layers, bidirectional=bidirectional)
    windows = torch.randn(B, T, F)
    assert model.encode(windows).shape == (B, model.code_size) == (B, Z)
    outputs = model(windows)
    assert outputs.shape == (B, T, F)
    outputs.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("kind", parity.DECODERS)
def test_running_free_sees_the_code_alone(kind):
    """Check that denying the decoder the true window changes nothing: reported errors are free-running."""
    model, windows = make_model(kind), torch.randn(B, T, F)
    free = model(windows)
    assert torch.equal(model.decode(model.encode(windows), T), free)
    assert torch.equal(model.decode(model.encode(windows), T, truth=torch.randn(B, T, F)), free)
    assert torch.equal(model(windows, feeding=Feeding(None, False, 0)), free)
    if kind is not RepeatDecoder:
        assert not torch.equal(model(windows, feeding=Feeding(torch.ones(T, dtype=torch.bool), False, 0)), free)


@pytest.mark.parametrize("kind", [AutoregressiveDecoder, ConditionalDecoder])
def test_a_truth_fed_output_sees_the_bars_before_it_alone(kind):
    model, windows = make_model(kind), torch.randn(B, T, F)
    code, feeding = torch.randn(B, Z), Feeding(torch.ones(T, dtype=torch.bool), False, 0)
    changed = windows.clone()
    changed[:, 2] += 1.0
    before, after = (model.decode(code, T, truth, feeding) for truth in (windows, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_states_bridge_hands_the_states_over_as_they_are():
    bridge = StatesBridge(**{**STATES, "encoder_num_layers": 2, "decoder_num_layers": 2})
    state = torch.randn(2, B, 6), torch.randn(2, B, 6)
    code = bridge.encode(state)
    assert code.shape == (B, bridge.code_size) == (B, 24)
    conditioning, decoded = bridge.decode(code)
    assert torch.equal(conditioning, state[0][-1])
    assert bridge.conditioning_size == 6
    assert all(torch.equal(a, b) for a, b in zip(state, decoded, strict=True))
    assert not list(bridge.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"decoder_num_layers": 2}, r"decoder.num_layers is 2; .*encoder.num_layers = 1: set decoder.num_layers=1"),
        ({"encoder_state_size": 12}, r"decoder.hidden_size is 6; .*= 12 .*: set decoder.hidden_size=12"),
    ],
)
def test_states_bridge_refuses_what_differs(sizes, message):
    with pytest.raises(ValueError, match=message) as error:
        StatesBridge(**{**STATES, **sizes})
    assert "bridge=latent" in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMEncoder(**{**ENCODER, "dropout": 1.0}), r"encoder.dropout is 1.0; it must be in \[0, 1\)"),
        (lambda: LSTMEncoder(**{**ENCODER, "num_layers": 0}), "encoder.num_layers is 0; it must be at least 1"),
        (
            lambda: LatentBridge(latent_dim=0, dropout=0.0, linear_path="none", normalize_windows=False, **STATES),
            "bridge.latent_dim is 0; it must be at least 1",
        ),
        (lambda: RepeatDecoder(**{**DECODER, "hidden_size": 0}, reverse=False), "decoder.hidden_size is 0"),
        (
            lambda: ConditionalDecoder(**DECODER, reverse=False, start_token="ones"),
            "decoder.start_token is 'ones'; it must be one of zeros, learned",
        ),
        (
            lambda: AutoregressiveDecoder(**{**DECODER, "dropout": float("nan")}, **FED_BACK),
            r"decoder.dropout is nan; it must be in \[0, 1\)",
        ),
    ],
)
def test_settings_out_of_bounds(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (torch.ones(B, T, F, dtype=torch.int64), "windows are torch.int64; they must be floating point"),
        (torch.randn(B, T, F + 1), r"windows are \(3, 5, 3\); .* F = 2 \(data.features\)"),
        (torch.randn(B, 0, F), r"windows are \(3, 0, 2\); .* T at least 1"),
        (torch.randn(T, F), r"windows are \(5, 2\); they must be \(B, T, F\)"),
    ],
)
def test_windows_that_do_not_fit(windows, message):
    with pytest.raises(ValueError, match=message):
        make_model()(windows)


@pytest.mark.parametrize(
    ("code", "window_size", "message"),
    [
        (torch.randn(B, Z + 1), T, r"code is \(3, 5\); it must be \(B, 4\), .*bridge.latent_dim"),
        (torch.randn(Z), T, r"code is \(4,\); it must be \(B, 4\)"),
        (torch.ones(B, Z, dtype=torch.int32), T, "code is torch.int32; it must be a floating-point tensor"),
        (torch.randn(B, Z), 0, r"window_size is 0; it must be at least 1 \(data.window_size\)"),
    ],
)
def test_codes_that_do_not_fit(code, window_size, message):
    with pytest.raises(ValueError, match=message):
        make_model().decode(code, window_size)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conditioning": torch.randn(B, Z + 1)}, r"conditioning is \(3, 5\), .* \(B, 4\).*bridge.latent_dim"),
        (
            {"state": (torch.randn(1, B, 6), torch.randn(1, B, 7))},
            r"c of the first state is \(1, 3, 7\); .*\(1, 3, 6\)",
        ),
        (
            {"state": (torch.ones(1, B, 6, dtype=torch.int64), torch.randn(1, B, 6))},
            "h of the first state is torch.int64; it must be floating point, torch.float32 as the conditioning",
        ),
        (
            {"state": (torch.randn(1, B, 6), torch.randn(1, B, 6).double())},
            "c of the first state is torch.float64; it must be floating point, torch.float32",
        ),
        ({"truth": torch.randn(B, T + 1, F)}, r"truth is \(3, 6, 2\), .* \(B, T, F\) = \(3, 5, 2\)"),
        ({"truth": torch.ones(B, T, F, dtype=torch.int64)}, "truth is .*torch.int64; it must be .*floating point"),
    ],
)
def test_decoder_inputs_that_do_not_fit(kind, changed, message):
    arguments = {"conditioning": torch.randn(B, Z), "state": (torch.randn(1, B, 6), torch.randn(1, B, 6))}
    arguments |= {"window_size": T, "truth": None, "feeding": None, "mask": None, **changed}
    with pytest.raises(ValueError, match=message):
        make_model(kind).decoder(arguments.pop("conditioning"), arguments.pop("state"), **arguments)


@pytest.mark.parametrize("kind", parity.DECODERS)
def test_a_float32_code_is_decoded_under_autocast(kind):
    """Check that it works although the bridge makes a bf16 state beside a float32 code."""
    model = make_model(kind)
    with torch.autocast("cpu", torch.bfloat16):
        conditioning, state = model.bridge.decode(torch.randn(B, Z))
        assert (conditioning.dtype, state[0].dtype) == (torch.float32, torch.bfloat16)
        assert model.decode(conditioning, T).isfinite().all()


@pytest.mark.parametrize(
    ("feeding", "message"),
    [
        (Feeding(torch.ones(T + 1, dtype=torch.bool), False, 0), r"coins are \(6,\), .*\(teacher_forcing.coin\)"),
        (Feeding(torch.ones(T), False, 0), r"coins are \(5,\), torch.float32.* must be torch.bool"),
        (Feeding(torch.ones(T, B, dtype=torch.bool), False, 0), r"coins are \(5, 3\)"),
        (Feeding(None, False, 0, torch.ones(T) > 0), r"dropped is \(5,\), .*\(teacher_forcing.input_dropout\)"),
        (Feeding(None, False, 0, torch.ones(B, T)), r"dropped is \(3, 5\), torch.float32"),
        (Feeding(None, False, 1), r"teacher_forcing.parallel_passes is 1; it must be 0 \(exact\) or at least 2"),
        (Feeding(None, False, -1), "teacher_forcing.parallel_passes is -1"),
        (
            Feeding(torch.ones(T, dtype=torch.bool), False, 2),
            "parallel_passes is 2; it must be 0 unless teacher_forcing.coin=sequence_step",
        ),
    ],
)
def test_feeding_that_does_not_fit(feeding, message):
    with pytest.raises(ValueError, match=message):
        make_model()(torch.randn(B, T, F), feeding=feeding)


def test_coins_need_a_truth():
    with pytest.raises(ValueError, match=r"truth is None; it must be \(B, T, F\)"):
        make_model().decode(torch.randn(B, Z), T, feeding=Feeding(torch.ones(T, dtype=torch.bool), False, 0))


@pytest.mark.slow
def test_models_import_torch_and_bounds_alone():
    listing = "import sys, refold.models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("refold") and not name.startswith("refold.models")}
    assert ours == {"refold", "refold.bounds"}
    assert not {"lightning", "hydra", "omegaconf", "polars"} & set(loaded)
