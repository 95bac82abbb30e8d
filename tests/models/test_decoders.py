"""Each decoder equals the plain loop on every path, in outputs and float64 gradients, and obeys its settings."""

import pytest
import torch
from conftest import slow_but
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.models import AutoregressiveDecoder, ConditionalDecoder, Feeding, RepeatDecoder
from refold.models import closed_loop as loop
from tests import naive
from tests.models import parity


@pytest.mark.parametrize("kind", parity.DECODERS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_any_sizes_coins_and_mask(kind, data):
    B, T, F, H, Z, L = (
        data.draw(st.integers(1, most), label=name) for name, most in zip("BTFHZL", (4, 12, 3, 5, 3, 3), strict=True)
    )
    torch.manual_seed(data.draw(st.integers(0, 2**31), label="seed"))
    ratio = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), label="ratio")
    coins = parity.make_coins(data.draw(st.sampled_from(parity.COINS), label="coin"), B, T, ratio)
    mask = parity.make_mask(B, T) if data.draw(st.booleans(), label="mask") else None
    reverse, start = data.draw(st.booleans(), label="reverse"), data.draw(st.sampled_from(["zeros", "learned"]))
    decoder = parity.make_decoder(kind, F=F, Z=Z, H=H, L=L, reverse=reverse, start_token=start)
    detach = data.draw(st.booleans(), label="detach")
    dropped = torch.rand(B, T) < 0.5 if data.draw(st.booleans(), label="dropped") else None
    feeding = Feeding(coins, detach, 0, dropped)
    parity.assert_is_the_plain_loop(decoder, B, T, feeding, mask)


@pytest.mark.slow
@pytest.mark.parametrize("kind", parity.DECODERS)
@settings(deadline=None, max_examples=72)
@given(data=st.data())
def test_so_do_many_more(kind, data):
    test_any_sizes_coins_and_mask.hypothesis.inner_test(kind, data)


SIZES = [(3, 9, 3, 1), (1, 9, 3, 1), (3, 1, 3, 1), (3, 9, 1, 1), (3, 9, 3, 2)]
BOTH_DEPTHS = SIZES[0], SIZES[-1]


@pytest.mark.parametrize("threshold", [0.0, 1.0])  # stepping, segments
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("coin", parity.COINS)
@pytest.mark.parametrize(("B", "T", "F", "L"), slow_but(BOTH_DEPTHS, SIZES))
def test_each_path(monkeypatch, B, T, F, L, coin, detach, threshold):
    monkeypatch.setattr(loop, "SEGMENTS_PER_STEP", threshold)
    torch.manual_seed(0)
    decoder = parity.make_decoder(ConditionalDecoder, F=F, L=L)
    parity.assert_is_the_plain_loop(decoder, B, T, Feeding(parity.make_coins(coin, B, T), detach, 0))


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("coin", [*parity.COINS, "truth"])
@pytest.mark.parametrize("rate", slow_but([0.5], [0.5, 1.0]))
@pytest.mark.parametrize(("B", "T", "F", "L"), slow_but(BOTH_DEPTHS, SIZES))
def test_dropped_bars_are_zeros_on_each_path(B, T, F, L, rate, coin, detach):
    torch.manual_seed(0)
    decoder = parity.make_decoder(ConditionalDecoder, F=F, L=L)
    coins = torch.ones(T, dtype=torch.bool) if coin == "truth" else parity.make_coins(coin, B, T)
    parity.assert_is_the_plain_loop(decoder, B, T, Feeding(coins, detach, 0, torch.rand(B, T) < rate))


def test_where_all_inputs_are_dropped_or_true_one_fused_call_is_enough(calls):
    decoder = parity.make_decoder(AutoregressiveDecoder)
    z, *state = parity.make_inputs(decoder, 3)
    call = {"window_size": 20, "truth": torch.randn(3, 20, 3).double(), "mask": None}
    coins, dropped = torch.ones(20, dtype=torch.bool), torch.rand(3, 20) < 0.5
    decoder(z, state, **call, feeding=Feeding(coins, False, 0, dropped))
    decoder(z, state, **call, feeding=Feeding(None, False, 0, torch.ones_like(dropped)))
    assert calls == [20, 20]
    decoder(z, state, **call, feeding=Feeding(None, False, 0, dropped))
    assert calls[2:] == ["step"]


def test_dropped_bars_with_parallel_passes_are_exact_once_there_are_as_many_as_steps():
    torch.manual_seed(0)
    T = 6
    decoder = parity.make_decoder(AutoregressiveDecoder)
    dropped = torch.rand(3, T) < 0.5
    parity.assert_is_the_plain_loop(decoder, 3, T, Feeding(torch.rand(3, T) < 0.5, False, T, dropped))
    parity.assert_is_the_plain_loop(decoder, 3, T, Feeding(None, False, 2, dropped))  # exact without truth


@pytest.fixture
def calls(monkeypatch):
    """Record the calls of a decoding: the length of each fused call, and "step" for the stepping path."""
    seen = []
    fused, stepped = loop.fused_lstm, loop.step_by_step
    monkeypatch.setattr(loop, "fused_lstm", lambda inputs, *a: seen.append(inputs.shape[1]) or fused(inputs, *a))
    monkeypatch.setattr(loop, "step_by_step", lambda *a, **k: seen.append("step") or stepped(*a, **k))
    return seen


@pytest.mark.parametrize(
    ("coins", "L", "expected"),
    [
        (None, 1, [20]),  # running free is one call, start token included
        (None, 2, ["step"]),
        (torch.ones(20, dtype=torch.bool), 1, [20]),
        (torch.ones(20, dtype=torch.bool), 3, [20]),
        (torch.arange(20) < 8, 1, [8, 12]),  # prefix
        (torch.arange(20) == 9, 1, [9, 11]),  # the one true bar is the first step of the second call
        (torch.arange(20) != 9, 1, [9, 11]),
        (torch.arange(20) % 2 == 0, 1, ["step"]),
        (torch.tensor([[True], [False], [True]]), 1, [20, 20]),
        (torch.tensor([[True], [False], [True]]), 2, [20, "step"]),
        (torch.eye(3, 20, dtype=torch.bool), 1, ["step"]),
    ],
)
@pytest.mark.parametrize("masked", [False, True])  # a mask moves bars, and changes no call
def test_calls(calls, coins, L, expected, masked):
    decoder = parity.make_decoder(AutoregressiveDecoder, L=L)
    z, *state = parity.make_inputs(decoder, 3)
    truth = torch.randn(3, 20, 3, dtype=torch.float64)
    mask = parity.make_mask(3, 20) if masked else None
    decoder(z, state, window_size=20, truth=truth, feeding=Feeding(coins, False, 0), mask=mask)
    assert calls == expected


@given(coins=st.lists(st.booleans(), min_size=1, max_size=14))
@settings(deadline=None)
def test_segments_are_whole_of_one_kind_and_fewest(coins):
    cut = loop.segments(coins)
    assert [t for start, end, _ in cut for t in range(start, end)] == list(range(len(coins)))
    assert all(coins[t] == kind for start, end, kind in cut for t in range(start + 1, end))
    fewest = [0]  # of the first n coins: look at the last stretch of each
    for end in range(1, len(coins) + 1):
        fewest.append(1 + min(fewest[start] for start in range(end) if len(set(coins[start + 1 : end])) <= 1))
    assert len(cut) == fewest[-1]


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("detach", [False, True])
def test_as_many_parallel_passes_as_steps_are_exact_and_fewer_are_not(L, detach):
    torch.manual_seed(0)
    B, T = 3, 6
    decoder = parity.make_decoder(AutoregressiveDecoder, L=L)
    feeding = Feeding(parity.make_coins("sequence_step", B, T, 0.3), detach, T)
    z, *state = parity.make_inputs(decoder, B)
    truth = torch.randn(B, T, 3, dtype=torch.float64)
    expected = naive.decode(decoder, z, state, T, truth, feeding)
    outputs = decoder(z, state, window_size=T, truth=truth, feeding=feeding, mask=None)
    torch.testing.assert_close(outputs, expected, **parity.FLOAT64)
    ours, theirs = (torch.autograd.grad(y.square().sum(), decoder.parameters()) for y in (outputs, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **parity.FLOAT64)
    two = decoder(z, state, window_size=T, truth=truth, feeding=feeding._replace(parallel_passes=2), mask=None)
    torch.testing.assert_close(two[:, :2], expected[:, :2], **parity.FLOAT64)  # n passes: the first n steps
    assert (two - expected).abs().max() > 1e-6


def test_two_parallel_passes_are_two_truth_fed_passes():
    torch.manual_seed(0)
    B, T = 4, 7
    decoder = parity.make_decoder(ConditionalDecoder)
    coins = parity.make_coins("sequence_step", B, T)
    z, *state = parity.make_inputs(decoder, B)
    truth = torch.randn(B, T, 3, dtype=torch.float64)
    first = naive.decode(decoder, z, state, T, truth, Feeding(torch.ones(T, dtype=torch.bool), False, 0))
    before = torch.arange(T) + 1  # the plain loop feeds bar t - 1 at step t; the mix is fed the same way
    mixed = torch.where(coins[:, before % T].unsqueeze(2), truth, first)
    expected = naive.decode(decoder, z, state, T, mixed, Feeding(torch.ones(T, dtype=torch.bool), False, 0))
    outputs = decoder(z, state, window_size=T, truth=truth, feeding=Feeding(coins, False, 2), mask=None)
    torch.testing.assert_close(outputs, expected, **parity.FLOAT64)


@pytest.mark.parametrize("kind", parity.DECODERS)
def test_reverse_decodes_the_last_bar_first(kind):
    torch.manual_seed(0)
    decoder = parity.make_decoder(kind)
    z, *state = parity.make_inputs(decoder, 2)
    forward = decoder(z, state, window_size=5, truth=None, feeding=None, mask=None)
    decoder.reverse = True
    torch.testing.assert_close(
        decoder(z, state, window_size=5, truth=None, feeding=None, mask=None), forward.flip(1), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", [AutoregressiveDecoder, ConditionalDecoder])
def test_start_token_is_learned_only_if_asked(kind):
    learned, zeros = (parity.make_decoder(kind, start_token=start) for start in ("learned", "zeros"))
    assert "start_token" in dict(learned.named_parameters())
    assert "start_token" not in dict(zeros.named_parameters())
    assert learned.state_dict().keys() == zeros.state_dict().keys()
    assert not zeros.start_token.any()


def test_the_autoregressive_decoder_knows_the_code_by_its_state_alone():
    decoder = parity.make_decoder(AutoregressiveDecoder)
    z, *state = parity.make_inputs(decoder, 2)
    one, other = (decoder(x, state, window_size=4, truth=None, feeding=None, mask=None) for x in (z, z + 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coin", parity.COINS)
def test_the_same_twice_is_bit_equal(kind, coin):
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        decoder = parity.make_decoder(kind, L=2, H=8, dropout=0.3).float().train()
        inputs = parity.make_inputs(decoder, 4, torch.float32)
        truth, coins = torch.randn(4, 16, 3), parity.make_coins(coin, 4, 16)
        results.append(
            parity.outputs_and_gradients(
                lambda z, state, decoder=decoder, truth=truth, coins=coins: decoder(
                    z, state, window_size=16, truth=truth, feeding=Feeding(coins, False, 0), mask=None
                ),
                decoder,
                inputs,
                torch.ones(4, 16, 3),
            )
        )
    (one, one_gradients), (other, other_gradients) = results
    assert torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(one_gradients, other_gradients, strict=True))


@pytest.mark.parametrize("L", slow_but([1], [1, 2]))
@pytest.mark.parametrize("coin", slow_but(["free", "step"], parity.COINS))
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", parity.DECODERS)
def test_bf16_is_as_near_to_float64_as_the_plain_loop_in_bf16(kind, autocast, coin, L):
    """Outputs and gradients, in the norm of each tensor: at most 2 x the plain loop's error + 2 x 2^-8 of the norm.

    Twice, for what is rounded at each step: the loop rounds y_{t-1} and its product with W_x, the fold has rounded
    W_x W_o and its sum with W_h in their place (under autocast the sum alone). As many roundings of the same terms, in
    another order, make errors of one size, not the same error.

    2 x 2^-8, for what is rounded once, at the end, and does not shrink with the loop's error: bf16 keeps 8 significant
    bits, so that a rounding moves a number by at most 2^-8 of itself, and a tensor by at most 2^-8 of its norm. Two of
    them the loop does not make: the gradient of the folded matrix is rounded, and its product with W_o' or W_x' too, on
    the way to W_x and W_o. Elsewhere it is one: an output, or a sum over steps that the loop rounds in pieces.
    """
    torch.manual_seed(0)
    B, T = 16, 24
    exact = parity.make_decoder(kind, H=16, L=L)
    inputs, truth = parity.make_inputs(exact, B), torch.randn(B, T, 3, dtype=torch.float64)
    upstream = torch.randn_like(truth)
    feeding = Feeding(parity.make_coins(coin, B, T, 0.2), False, 0)

    def results(path, decoder, dtype):
        own_truth, own_upstream, *own_inputs = (part.to(dtype) for part in (truth, upstream, *inputs))

        def decode(z, state):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype is not torch.float64):
                return path(decoder, z, state, own_truth)

        outputs, gradients = parity.outputs_and_gradients(decode, decoder, own_inputs, own_upstream)
        return [outputs.double(), *(gradient.double() for gradient in gradients)]

    def loop(decoder, z, state, truth):
        return naive.decode_loop(decoder, z, state, T, truth, feeding)

    def ours(decoder, z, state, truth):
        return decoder(z, state, window_size=T, truth=truth, feeding=feeding, mask=None)

    expected = results(loop, exact, torch.float64)
    names = ["outputs", *(name for name, _ in exact.named_parameters()), "conditioning", "h", "c"]
    dtype = torch.float32 if autocast else torch.bfloat16
    decoder = exact.to(dtype)
    compared = zip(names, expected, results(loop, decoder, dtype), results(ours, decoder, dtype), strict=True)
    for name, right, plain, found in compared:
        error, plain_error = (found - right).norm(), (plain - right).norm()
        assert error <= 2 * plain_error + 2 * 2**-8 * right.norm(), name


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind", [AutoregressiveDecoder, ConditionalDecoder])
def test_the_fold_and_stepping_keep_float32_under_autocast(kind, L):
    """Check equality, bit for bit, with the products outside autocast; a fold in bf16 would be rounded twice."""
    torch.manual_seed(0)
    decoder = parity.make_decoder(kind, L=L, H=8).float()
    z, *state = parity.make_inputs(decoder, 4, torch.float32)
    truth = torch.randn(4, 10, 3)
    feeding = Feeding(parity.make_coins("sequence_step", 4, 10), False, 0)  # which steps
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert (decoder.projection(state[0]).dtype == torch.bfloat16) == enabled  # so that the test can fail
            outputs = decoder(z, state, window_size=10, truth=truth, feeding=feeding, mask=None)
            made = [outputs]
            if L == 1:
                made += loop.fold(loop.weights_of(decoder.lstm, decoder.projection))
        leaves = [weight for name, weight in decoder.named_parameters() if name != "start_token"]
        results.append([*made, *torch.autograd.grad(sum(part.sum() for part in made), leaves)])
    for without, under in zip(*results, strict=True):
        assert under.dtype == torch.float32
        assert torch.equal(without, under)


def test_repeat_takes_truth_and_coins_and_changes_nothing():
    decoder = parity.make_decoder(RepeatDecoder)
    z, *state = parity.make_inputs(decoder, 2)
    free = decoder(z, state, window_size=4, truth=None, feeding=None, mask=None)
    truth, feeding = torch.randn(2, 4, 3).double(), Feeding(torch.ones(4, dtype=torch.bool), False, 0)
    assert torch.equal(decoder(z, state, window_size=4, truth=truth, feeding=feeding, mask=None), free)
