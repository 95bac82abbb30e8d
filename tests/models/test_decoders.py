"""Decoders against the plain loop of tests/naive.py: outputs and gradients in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.models import AutoregressiveDecoder, ConditionalDecoder, Feeding, RepeatDecoder
from tests import naive

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}  # float64: sums of a few hundred terms of order 1, rounded at 1e-16


def make_decoder(kind, F, Z, H, L, reverse=False, start_token="learned"):
    sizes = {"output_size": F, "conditioning_size": Z, "hidden_size": H, "num_layers": L, "dropout": 0.0}
    if kind is RepeatDecoder:
        return kind(**sizes, reverse=reverse).double()
    decoder = kind(**sizes, reverse=reverse, start_token=start_token).double()
    if start_token == "learned":
        torch.nn.init.normal_(decoder.start_token)
    return decoder


def make_coins(shape, B, T, ratio, generator):
    sizes = {"none": None, "step": (T,), "sequence": (B, 1), "sequence_step": (B, T)}[shape]
    return None if sizes is None else torch.rand(sizes, generator=generator) < ratio


def run(decode, decoder, inputs, upstream):
    """Outputs and the gradients of every weight, of the conditioning and of the first state."""
    conditioning, h, c = (part.detach().clone().requires_grad_() for part in inputs)
    outputs = decode(conditioning, (h, c))
    leaves = [*decoder.parameters(), conditioning, h, c]
    return outputs, torch.autograd.grad((outputs * upstream).sum(), leaves, materialize_grads=True, allow_unused=True)


def assert_same(decoder, B, T, truth, feeding, mask=None):
    L, H, Z, F = decoder.sizes
    inputs = [torch.randn(B, Z).double(), torch.randn(L, B, H).double(), torch.randn(L, B, H).double()]
    upstream = torch.randn(B, T, F).double()
    if mask is not None:
        upstream = upstream * mask.unsqueeze(2)
    fast, fast_gradients = run(
        lambda z, state: decoder(z, state, window_size=T, truth=truth, feeding=feeding, mask=mask),
        decoder,
        inputs,
        upstream,
    )
    slow, slow_gradients = run(
        lambda z, state: naive.decode(decoder, z, state, T, truth, feeding, mask), decoder, inputs, upstream
    )
    assert fast.isfinite().all()
    present = slice(None) if mask is None else mask
    torch.testing.assert_close(fast[present], slow[present], **TOLERANCE)
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("kind", [AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_path_is_the_plain_loop(kind, data):
    B, T, F, H, Z, L = (data.draw(st.integers(1, n)) for n in (4, 7, 3, 5, 3, 3))
    seed = data.draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = data.draw(st.sampled_from(["none", "step", "sequence", "sequence_step"]))
    coins = make_coins(shape, B, T, data.draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])), generator)
    feeding = Feeding(coins=coins, detach_feedback=data.draw(st.booleans()), parallel_passes=0)
    decoder = make_decoder(kind, F, Z, H, L, data.draw(st.booleans()), data.draw(st.sampled_from(["zeros", "learned"])))
    mask = None
    if data.draw(st.booleans()):
        mask = torch.rand(B, T, generator=generator) < 0.6
        mask[:, 0] |= ~mask.any(dim=1)
    assert_same(decoder, B, T, torch.randn(B, T, F).double(), feeding, mask)
