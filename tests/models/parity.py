"""Random decoders and inputs, and the comparison of a decoder with the plain loop of tests/naive.py."""

import torch

from refold.models import AutoregressiveDecoder, ConditionalDecoder, Feeding, RepeatDecoder
from tests import naive

DECODERS = [AutoregressiveDecoder, ConditionalDecoder, RepeatDecoder]
COINS = ["free", "prefix", "step", "sequence", "sequence_step"]
# float64 rounds at 1e-16; the values compared are sums of up to a few thousand terms of order 1.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}


def make_decoder(kind, *, F=3, Z=2, H=4, L=1, reverse=False, start_token="learned", dropout=0.0):
    """Make a float64 decoder with random weights and, where it has one, a random start token."""
    sizes = {"output_size": F, "conditioning_size": Z, "hidden_size": H, "num_layers": L, "dropout": dropout}
    if kind is RepeatDecoder:
        return kind(**sizes, reverse=reverse).double()
    decoder = kind(**sizes, reverse=reverse, start_token=start_token).double()
    if start_token == "learned":
        torch.nn.init.normal_(decoder.start_token)
    return decoder


def make_coins(kind, B, T, ratio=0.5):
    """Throw coins of one kind of teacher_forcing.coin, as a schedule would."""
    if kind == "free":
        return None
    if kind == "prefix":
        return torch.arange(T) < round(ratio * T)
    sizes = {"step": (T,), "sequence": (B, 1), "sequence_step": (B, T)}[kind]
    return torch.rand(sizes) < ratio


def make_mask(B, T):
    """Make a mask with random holes and padding; each window keeps at least one present bar."""
    mask = torch.rand(B, T) < 0.6
    mask[torch.arange(B), torch.randint(T, (B,))] = True
    return mask


def make_inputs(decoder, B, dtype=torch.float64):
    """Make a conditioning (B, Z) and a first state h, c (L, B, H)."""
    L, H, Z, _ = decoder.sizes
    return [torch.randn(size, dtype=dtype) for size in ((B, Z), (L, B, H), (L, B, H))]


def outputs_and_gradients(decode, decoder, inputs, upstream):
    """Return the outputs, and the gradients of every weight, of the conditioning and of the first state."""
    conditioning, h, c = (part.clone().requires_grad_() for part in inputs)
    outputs = decode(conditioning, (h, c))
    leaves = [*decoder.parameters(), conditioning, h, c]
    return outputs, torch.autograd.grad((outputs * upstream).sum(), leaves, allow_unused=True, materialize_grads=True)


def assert_is_the_plain_loop(decoder, B, T, feeding, mask=None):
    """Check that decoder and plain loop give the same outputs at present bars and the same gradients."""
    inputs, truth = make_inputs(decoder, B), torch.randn(B, T, decoder.sizes[3], dtype=torch.float64)
    upstream = torch.randn_like(truth)
    if mask is not None:
        upstream[~mask] = 0.0  # a loss reads present bars alone
        truth[~mask] = torch.nan  # and nothing reads the others
    feeding = feeding or Feeding(None, False, 0)
    outputs, gradients = outputs_and_gradients(
        lambda z, state: decoder(
            z, state, window_size=T, truth=None if feeding.coins is None else truth, feeding=feeding, mask=mask
        ),
        decoder,
        inputs,
        upstream,
    )
    expected, expected_gradients = outputs_and_gradients(
        lambda z, state: naive.decode(decoder, z, state, T, truth, feeding, mask), decoder, inputs, upstream
    )
    assert outputs.isfinite().all()
    present = slice(None) if mask is None else mask
    torch.testing.assert_close(outputs[present], expected[present], **FLOAT64)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def assert_twin(model, twin, sizes, *, coin, masked, detach):
    """Check that a float64 autoencoder has the codes, reconstructions and gradients of its plain twin."""
    B, T, _ = sizes
    windows = torch.randn(sizes, dtype=torch.float64)
    mask = make_mask(B, T) if masked else torch.ones(B, T, dtype=torch.bool)
    spoilt = windows.masked_fill(~mask.unsqueeze(2), torch.nan)  # no result depends on the values at absent bars
    given, feeding = mask if masked else None, Feeding(make_coins(coin, B, T), detach, 0)
    upstream = torch.randn(sizes, dtype=torch.float64) * mask.unsqueeze(2)
    code, outputs = model.encode(spoilt, given), model(spoilt, given, feeding)
    expected_code, expected = twin(model, windows, mask, feeding)
    torch.testing.assert_close(code, expected_code, **FLOAT64)
    torch.testing.assert_close(outputs[mask], expected[mask], **FLOAT64)
    weights = list(model.parameters())
    found, wanted = (
        torch.autograd.grad((made * upstream)[mask].sum(), weights, allow_unused=True, materialize_grads=True)
        for made in (outputs, expected)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)
