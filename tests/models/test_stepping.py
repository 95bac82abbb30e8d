"""The hand-written backward of the stepping path where no plain loop compares: dropout, and torch's own checks."""

import pytest
import torch

from refold.models import AutoregressiveDecoder, Feeding
from refold.models.stepping import Stepping, step_by_step
from tests.models import parity


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("L", [1, 3])
def test_backward_is_the_numerical_derivative_with_dropout(L, detach):
    """gradcheck differentiates forward numerically. Without detach: a detached feedback is not that derivative."""
    torch.manual_seed(0)
    T, F, H, B = 4, 2, 3, 2
    made = {"dtype": torch.float64, "requires_grad": True}
    fed, h, c = torch.randn(T, F, B, **made), torch.randn(L, H, B, **made), torch.randn(L, H, B, **made)
    w_o, b_o = torch.randn(F, H, **made), torch.randn(F, **made)
    constants = [torch.randn(4 * H, B, **made) for _ in range(L)]
    weights = [torch.randn(4 * H, H + (F if n == 0 else H), **made) for n in range(L)]
    kept = torch.nn.functional.dropout(torch.ones(L - 1, T, H, B, dtype=torch.float64), 0.5) if L > 1 else None
    coins = torch.rand(T, 1, B) < 0.5
    if detach:
        coins[:] = True  # nothing is fed back, and so nothing can be detached
    else:
        coins[0] = True

    def run(fed, h, c, w_o, b_o, *rest):
        return Stepping.apply(fed, coins, kept, h, c, w_o, b_o, detach, *rest)

    assert torch.autograd.gradcheck(run, (fed, h, c, w_o, b_o, *constants, *weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("coin", ["free", "step", "sequence_step"])
@pytest.mark.parametrize("L", [1, 2, 3])
def test_without_gradients_the_outputs_are_the_same_bit_for_bit(L, coin, dtype):
    torch.manual_seed(0)
    T, F, H, B = 9, 2, 8, 5
    decoder = parity.make_decoder(AutoregressiveDecoder, L=L, H=H, F=F).to(dtype)
    state = torch.randn(2, L, B, H, dtype=dtype).unbind()
    fed = torch.randn(B, T, F, dtype=dtype)
    coins = torch.rand((B, T) if coin == "sequence_step" else T) < (0.0 if coin == "free" else 0.5)
    coins[..., 0] = True
    given = decoder.lstm.all_weights, decoder.projection.weight, decoder.projection.bias, fed, coins, None, state
    with_gradients = step_by_step(*given, dropout=0.0, detach_feedback=False)
    with torch.no_grad():
        without = step_by_step(*given, dropout=0.0, detach_feedback=False)
    assert with_gradients.requires_grad
    assert not without.requires_grad
    assert torch.equal(with_gradients, without)


def test_dropout_drops_between_layers_at_its_rate_and_only_while_training():
    torch.manual_seed(0)
    decoder = parity.make_decoder(AutoregressiveDecoder, L=2, H=16, dropout=0.5)
    z, *state = parity.make_inputs(decoder, 64)

    def decode():
        return decoder(z, state, window_size=8, truth=None, feeding=None, mask=None)

    assert not torch.equal(decode(), decode())
    decoder.eval()
    assert torch.equal(decode(), decode())
    # A linear read-out of kept / (1 - p) numbers has the mean of the undropped ones: compare step 0 over many draws.
    exact = decode()[:, 0]
    decoder.train()
    draws = torch.stack([decode()[:, 0] for _ in range(200)])
    assert (draws.mean(dim=0) - exact).abs().max() < 6 * draws.std(dim=0).max() / 200**0.5 + 0.05


def test_a_second_backward_through_the_same_graph_is_the_first_again():
    decoder = parity.make_decoder(AutoregressiveDecoder, L=2)
    z, *state = parity.make_inputs(decoder, 2)
    loss = decoder(z, state, window_size=3, truth=None, feeding=None, mask=None).sum()
    weights = list(decoder.parameters())
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradient_reaches_the_truth_where_it_was_fed():
    torch.manual_seed(0)
    decoder = parity.make_decoder(AutoregressiveDecoder)
    _, *state = parity.make_inputs(decoder, 2)
    fed = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    coins = torch.tensor([[True, False, True, False], [True, True, False, False]])
    w_o, b_o = decoder.projection.weight, decoder.projection.bias
    layers = decoder.lstm.all_weights
    step_by_step(layers, w_o, b_o, fed, coins, None, state, dropout=0.0, detach_feedback=False).sum().backward()
    assert torch.equal(fed.grad.abs().sum(dim=2) > 0, coins)


def test_fused_paths_differentiate_twice_and_transform_where_stepping_raises():
    torch.manual_seed(0)
    decoder = parity.make_decoder(AutoregressiveDecoder)
    z, *state = parity.make_inputs(decoder, 2)
    weights, truth = dict(decoder.named_parameters()), torch.randn(2, 4, 3).double()

    def loss(weights, coins):
        call = {"window_size": 4, "truth": truth, "feeding": Feeding(coins, False, 0), "mask": None}
        return torch.func.functional_call(decoder, weights, (z, state), call).square().sum()

    def twice(coins):
        first = torch.autograd.grad(loss(weights, coins), list(weights.values()), create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in first), list(weights.values()))

    stepped = torch.tensor([[True, False, True, False], [True, True, False, False]])
    assert all(part.any() for part in twice(None))
    assert all(part.any() for part in torch.func.grad(loss)(weights, None).values())
    with pytest.raises(RuntimeError):
        twice(stepped)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(loss)(weights, stepped)
