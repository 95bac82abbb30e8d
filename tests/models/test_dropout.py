"""Dropout acts between layers on every path in training, with and without gradient, and never in evaluation."""

import pytest
import torch
from torch.nn import functional

from refold.models import AutoregressiveDecoder, ConditionalDecoder, Feeding, LatentBridge, LSTMEncoder
from tests.models import parity

B, T, F, H, L = 4, 6, 3, 5, 3
FEEDINGS = {
    "truth-fed": Feeding(torch.ones(T, dtype=torch.bool), False, 0),
    "stepping": Feeding(torch.arange(T) % 2 == 0, False, 0),
    "free": None,
    "sequences apart": Feeding(torch.tensor([[True], [False], [True], [False]]), False, 0),
    "parallel passes": Feeding(torch.eye(B, T, dtype=torch.bool), False, 2),
}


def make_encoder(bidirectional, dropout=0.5, num_layers=L):
    sizes = {"input_size": F, "hidden_size": H, "num_layers": num_layers}
    return LSTMEncoder(**sizes, dropout=dropout, bidirectional=bidirectional).double()


def assert_drops_in_training_alone(module, read):
    """read: module -> tensor. Its copy in evaluation mode draws nothing and drops nothing."""
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            assert not torch.equal(read(module.train()), read(module))
            before = torch.get_rng_state()
            exact = read(module.eval())
            assert torch.equal(exact, read(module))
            assert torch.equal(torch.get_rng_state(), before)
            module.lstm.dropout = 0.0
            torch.testing.assert_close(exact, read(module.train()), **parity.FLOAT64)
            module.lstm.dropout = 0.5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_encoder(masked, bidirectional):
    torch.manual_seed(0)
    windows, mask = torch.randn(B, T, F).double(), parity.make_mask(B, T) if masked else None
    mask = None if mask is None else mask.logical_or(torch.arange(T) < 2)  # two bars at least
    assert_drops_in_training_alone(make_encoder(bidirectional), lambda encoder: torch.cat(encoder(windows, mask)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("feeding", FEEDINGS)
@pytest.mark.parametrize("kind", parity.DECODERS)
def test_decoder(kind, feeding, masked):
    torch.manual_seed(0)
    decoder = parity.make_decoder(kind, F=F, L=L, H=H, dropout=0.5)
    z, *state = parity.make_inputs(decoder, B)
    truth, mask = torch.randn(B, T, F).double(), parity.make_mask(B, T) if masked else None
    call = {"window_size": T, "truth": truth, "feeding": FEEDINGS[feeding], "mask": mask}
    assert_drops_in_training_alone(decoder, lambda decoder: decoder(z, state, **call))


@pytest.fixture
def factors(monkeypatch):
    """Collect the factors that each call of dropout multiplied by, in order."""
    seen, dropout = [], functional.dropout

    def spy(values, p=0.5, training=True, inplace=False):
        factor = dropout(torch.ones_like(values), p, training, inplace)
        seen.append(factor)
        return values * factor

    monkeypatch.setattr(functional, "dropout", spy)
    return seen


def layer_by_layer(lstm, inputs, state, between):
    """Hidden (B, T, H) of the top layer and (h, c) of all, by one-directional layers of nn.LSTM's weights.

    between: for each layer but the last the factors (B, T, H) on its output.
    """
    states = []
    for n in range(lstm.num_layers):
        one = torch.nn.LSTM(inputs.shape[2], lstm.hidden_size, batch_first=True)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = dict(zip(names, lstm.all_weights[n], strict=True))
        own = tuple(part[n : n + 1] for part in state)
        inputs, last = torch.func.functional_call(one, weights, (inputs, own))
        inputs = inputs * between[n] if n + 1 < lstm.num_layers else inputs
        states.append(last)
    return inputs, tuple(torch.cat(part) for part in zip(*states, strict=True))


@pytest.mark.parametrize("kind", [AutoregressiveDecoder, ConditionalDecoder])
def test_stepping_is_a_loop_given_the_same_factors_one_for_each_layer_and_step(kind, factors):
    torch.manual_seed(0)
    decoder = parity.make_decoder(kind, F=F, L=L, H=H, dropout=0.5).train()
    inputs, upstream = parity.make_inputs(decoder, B), torch.randn(B, T, F).double()
    truth, coins = torch.randn(B, T, F).double(), parity.make_coins("sequence_step", B, T)
    feeding = Feeding(coins, False, 0)

    def stepping(z, state):
        return decoder(z, state, window_size=T, truth=truth, feeding=feeding, mask=None)

    def loop(z, state):
        (kept,) = factors  # (L - 1, T, H, B)
        outputs = []
        for t in range(T):
            own = truth[:, t - 1].where(coins[:, t : t + 1], outputs[-1]) if t else decoder.start_token.expand(B, -1)
            fed = torch.cat([own, z], dim=1) if kind is ConditionalDecoder else own
            between = [kept[n, t].t().unsqueeze(1) for n in range(L - 1)]
            hidden, state = layer_by_layer(decoder.lstm, fed.unsqueeze(1), state, between)
            outputs.append(decoder.projection(hidden.squeeze(1)))
        return torch.stack(outputs, dim=1)

    results = [parity.outputs_and_gradients(path, decoder, inputs, upstream) for path in (stepping, loop)]
    torch.testing.assert_close(*results, **parity.FLOAT64)
    (kept,) = factors
    assert kept.shape == (L - 1, T, H, B)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    drawn = kept.flatten(2)
    assert len({tuple(drawn[n, t].tolist()) for n in range(L - 1) for t in range(T)}) == (L - 1) * T


def test_masked_encoder_is_layers_given_the_same_factors(factors):
    torch.manual_seed(0)
    encoder, windows = make_encoder(bidirectional=False).train(), torch.randn(B, T, F).double()
    state = encoder(windows, torch.ones(B, T, dtype=torch.bool))
    zeros = torch.zeros(L, B, H, dtype=torch.float64)
    _, expected = layer_by_layer(encoder.lstm, windows, (zeros, zeros), factors)
    torch.testing.assert_close(state, expected, **parity.FLOAT64)
    assert not torch.equal(factors[0], factors[1])


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_masked_encoder_draws_between_layers_alone(bidirectional, num_layers, factors):
    """Check that nothing is drawn for the top layer, which has no layer above it: all later draws would shift."""
    encoder = make_encoder(bidirectional, num_layers=num_layers).train()
    encoder(torch.randn(B, T, F).double(), parity.make_mask(B, T))
    assert [factor.shape for factor in factors] == [(B, T, encoder.state_size)] * (num_layers - 1)


def test_bridge():
    """Check that numbers of the encoder's state are dropped before they become a code, in training alone."""
    torch.manual_seed(0)
    sizes = {"encoder_num_layers": 1, "encoder_state_size": H, "decoder_num_layers": 1, "decoder_hidden_size": H}
    bridge = LatentBridge(latent_dim=2, dropout=0.5, linear_path="none", normalize_windows=False, **sizes).double()
    state = torch.randn(1, 1, H).double(), torch.randn(1, 1, H).double()
    exact = bridge.eval().encode(state)
    assert torch.equal(exact, bridge.encode(state))
    drawn = torch.stack([bridge.train().encode(state) for _ in range(4000)])
    assert not torch.equal(drawn[0], drawn[1])
    # the mean is the exact code, since kept numbers count 1 / (1 - dropout) times: 4,000 draws of deviation below 2
    assert (drawn.mean(dim=0) - exact).abs().max() < 0.1
