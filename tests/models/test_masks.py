"""Windows of different lengths in one batch are encoded and decoded as each would be alone, without its absent bars."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.models import Autoencoder, LatentBridge, LSTMEncoder, lengths_to_mask
from refold.models import encoder as encoder_module
from refold.models.closed_loop import Feeding
from refold.models.masks import decoding_order, inverse, present_last, take
from tests import naive
from tests.models import parity


def make_model(kind=parity.DECODERS[0], *, F=3, H=4, L=1, bidirectional=False, reverse=False, Z=2):
    encoder = LSTMEncoder(input_size=F, hidden_size=H, num_layers=L, dropout=0.0, bidirectional=bidirectional)
    bridge = LatentBridge(
        latent_dim=Z,
        dropout=0.0,
        linear_path="none",
        normalize_windows=False,
        encoder_num_layers=L,
        encoder_state_size=encoder.state_size,
        decoder_num_layers=1,
        decoder_hidden_size=H,
    )
    return Autoencoder(encoder.double(), bridge.double(), parity.make_decoder(kind, F=F, Z=Z, H=H, reverse=reverse))


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_encoder_state_is_that_of_the_present_bars_alone(data):
    B, T, F, H, L = (data.draw(st.integers(1, most), label=n) for n, most in zip("BTFHL", (4, 9, 3, 5, 3), strict=True))
    bidirectional = data.draw(st.booleans(), label="bidirectional")
    torch.manual_seed(data.draw(st.integers(0, 2**31), label="seed"))
    sizes = {"input_size": F, "hidden_size": H, "num_layers": L, "dropout": 0.0, "bidirectional": bidirectional}
    encoder = LSTMEncoder(**sizes).double()
    windows, mask = torch.randn(B, T, F).double(), parity.make_mask(B, T)
    windows[~mask] = torch.nan
    weights = list(encoder.parameters())
    state, expected = encoder(windows, mask), naive.encode(encoder.lstm, windows, mask)
    assert state[0].shape == (L, B, encoder.state_size)
    upstream = [torch.randn_like(part) for part in state]
    gradients, expected_gradients = (
        torch.autograd.grad(sum((u * part).sum() for u, part in zip(upstream, s, strict=True)), weights)
        for s in (state, expected)
    )
    for ours, theirs in zip([*state, *gradients], [*expected, *expected_gradients], strict=True):
        torch.testing.assert_close(ours, theirs, **parity.FLOAT64)


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_without_a_mask_and_with_one_of_present_bars_alone_is_the_same(L, bidirectional):
    model, windows = make_model(L=L, bidirectional=bidirectional), torch.randn(3, 6, 3).double()
    everything = torch.ones(3, 6, dtype=torch.bool)
    torch.testing.assert_close(model(windows, everything), model(windows), **parity.FLOAT64)
    for ours, theirs in zip(
        model.encoder(windows, None), naive.encode(model.encoder.lstm, windows, everything), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **parity.FLOAT64)


@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_masked_encoder_makes_one_fused_call_over_all_steps_for_each_layer_and_direction(
    L, bidirectional, monkeypatch
):
    model, mask, seen = make_model(L=L, bidirectional=bidirectional, F=3, H=4), parity.make_mask(5, 20), []
    fused = encoder_module.fused_lstm
    monkeypatch.setattr(
        encoder_module, "fused_lstm", lambda inputs, *rest: seen.append(inputs.shape) or fused(inputs, *rest)
    )
    monkeypatch.setattr(torch.nn.LSTM, "forward", None)  # nor anything beside them
    monkeypatch.setattr(torch.nn.LSTMCell, "forward", None)
    model.encoder(torch.randn(5, 20, 3).double(), mask)
    directions = 2 if bidirectional else 1
    sizes = [3, *[4 * directions] * (L - 1)]  # of the inputs, and one more that says where a bar is absent
    assert seen == [(5, 20, size + 1) for size in sizes for _ in range(directions)]


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_window_of_a_batch_is_as_if_alone(kind, reverse, dtype):
    """Check the whole model. Tolerance 1e-6 in float32: a few roundings of 6e-8 over 12 steps, of values of order 1."""
    torch.manual_seed(0)
    model = make_model(kind, bidirectional=True, reverse=reverse, L=2).to(dtype)
    lengths = [12, 1, 5, 8]
    windows, mask = torch.randn(4, 12, 3, dtype=dtype), lengths_to_mask(torch.tensor(lengths), 12)
    together = model(windows, mask)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-10
    for b, length in enumerate(lengths):
        alone = model(windows[b : b + 1, :length])
        torch.testing.assert_close(together[b : b + 1, :length], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", parity.DECODERS)
@pytest.mark.parametrize("coin", parity.COINS)
def test_what_stands_at_absent_bars_changes_nothing(kind, coin):
    torch.manual_seed(0)
    model, mask = make_model(kind), parity.make_mask(4, 8)
    windows, coins = torch.randn(4, 8, 3).double(), parity.make_coins(coin, 4, 8)
    results = []
    for filling in (0.0, 1e6, torch.inf, torch.nan):
        windows[~mask] = filling
        model.zero_grad()
        outputs = model(windows, mask, Feeding(coins, False, 0))
        assert outputs.isfinite().all()  # so that a loss may multiply by the mask
        ((outputs - windows.masked_fill(~mask[..., None], 0.0)).square() * mask[..., None]).sum().backward()
        results.append([outputs[mask], *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_forward_decoding_is_not_moved_by_padding_at_the_end():
    model, code = make_model(), torch.randn(2, 2).double()
    mask = lengths_to_mask(torch.tensor([3, 6]), 6)
    assert torch.equal(model.decode(code, 6, mask=mask)[mask], model.decode(code, 6)[mask])


def test_a_reversed_decoder_starts_at_the_last_present_bar():
    model, code = make_model(reverse=True), torch.randn(2, 2).double()
    first_decoded = model.decode(code, 6)[:, -1]
    outputs = model.decode(code, 6, mask=lengths_to_mask(torch.tensor([3, 6]), 6))
    torch.testing.assert_close(torch.stack([outputs[0, 2], outputs[1, 5]]), first_decoded, **parity.FLOAT64)


@given(data=st.data())
@settings(deadline=None)
def test_indices_move_bars_where_they_say(data):
    B, T = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    mask, bars = parity.make_mask(B, T), torch.arange(T).expand(B, T)
    for b in range(B):
        present, absent = bars[b, mask[b]].tolist(), bars[b, ~mask[b]].tolist()
        assert present_last(mask)[b].tolist() == absent + present
        assert decoding_order(mask, reverse=False)[b].tolist() == present + absent
        assert decoding_order(mask, reverse=True)[b, : len(present)].tolist() == present[::-1]
    sequence = torch.randn(B, T, 2)
    for order in (present_last(mask), decoding_order(mask, reverse=True)):
        assert torch.equal(take(take(sequence, order), inverse(order)), sequence)


@pytest.mark.parametrize("lengths", [[0, 3], [3, 6], [-1, 2]])
def test_lengths_out_of_bounds(lengths):
    wrong = next(length for length in lengths if not 1 <= length <= 5)
    with pytest.raises(ValueError, match=rf"length {wrong}; it must be in \[1, data.window_size = 5\]"):
        lengths_to_mask(torch.tensor(lengths), 5)


@pytest.mark.parametrize(
    ("lengths", "given"),
    [
        (torch.tensor([3.0, 2.5]), r"\(2,\), torch.float32"),
        (torch.tensor([True, True]), r"\(2,\), torch.bool"),
        (torch.tensor([1j, 2]), r"\(2,\), torch.complex64"),
        (torch.tensor(3), r"\(\), torch.int64"),
        (torch.tensor([[3], [2]]), r"\(2, 1\), torch.int64"),
    ],
)
def test_lengths_that_are_no_whole_numbers_one_for_each_window(lengths, given):
    with pytest.raises(ValueError, match=rf"lengths are {given}; they must be \(B,\), whole numbers in \[1, .* = 5\]"):
        lengths_to_mask(lengths, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_lengths_of_any_integer_type(dtype):
    assert lengths_to_mask(torch.tensor([1, 3], dtype=dtype), 3).tolist() == [[True, False, False], [True] * 3]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, True, True], [False, False, False]]), "window 1 .* 0 present bars .* at least 1"),
        (torch.ones(2, 3), r"mask is torch.float32; it must be torch.bool"),
        (torch.ones(2, 4, dtype=torch.bool), r"mask is \(2, 4\); it must be \(B, T\) = \(2, 3\)"),
        (torch.ones(3, dtype=torch.bool), r"mask is \(3,\); it must be \(B, T\) = \(2, 3\)"),
    ],
)
def test_a_mask_that_does_not_fit(mask, message):
    model, windows = make_model(), torch.randn(2, 3, 3).double()
    with pytest.raises(ValueError, match=message):
        model(windows, mask)
    with pytest.raises(ValueError, match=message):
        model.decode(torch.randn(2, 2).double(), 3, mask=mask)
