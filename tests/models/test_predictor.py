"""The second decoder, which predicts the bars after a window: equal to the plain loop; without it nothing changes."""

import pytest
import torch
from conftest import slow_but

from refold import models
from refold.models import Autoencoder, Feeding
from refold.models.portable import portable
from tests import naive
from tests.models import parity

B, T, P, F, H, Z = 3, 6, 4, 2, 4, 3
KINDS = ["repeat", "autoregressive", "conditional"]


def make_model(predictor="conditional", *, bridge="latent", layers=1, horizon=P, **others):
    """Make a float64 composite model whose decoders have start tokens other than zeros."""
    sizes = {"hidden_size": H, "latent_dim": Z, "layers": layers, "bridge_dropout": 0.0, "window_size": T}
    model = models.build(
        F, bridge=bridge, predictor=predictor, horizon=horizon, start_token="learned", **{**sizes, **others}
    ).double()
    for name, weights in model.named_parameters():
        if name.endswith("start_token"):
            torch.nn.init.normal_(weights)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coin", slow_but(["free", "step", "sequence"], parity.COINS))
@pytest.mark.parametrize("masked", slow_but([True], [False, True]))
@pytest.mark.parametrize(("bridge", "layers", "detach"), [("latent", 1, False), ("latent_normalized", 1, True),
                                                          ("states", 2, False), ("latent", 2, True)])  # fmt: skip
def test_it_is_the_plain_loop(kind, coin, masked, bridge, layers, detach):
    torch.manual_seed(0)
    model = make_model(kind, bridge=bridge, layers=layers, decoder=KINDS[layers], encoder=None)
    windows, ahead = torch.randn(B, T, F).double(), torch.randn(B, P, F).double()
    masks = [parity.make_mask(B, bars) if masked else torch.ones(B, bars, dtype=torch.bool) for bars in (T, P)]
    spoilt = [
        bars.masked_fill(~mask.unsqueeze(2), torch.nan) for bars, mask in zip((windows, ahead), masks, strict=True)
    ]
    feeding = Feeding(parity.make_coins(coin, B, P), detach, 0)
    given = masks if masked else (None, None)
    code = model.encode(spoilt[0], given[0])
    made = model.decode(code, T, mask=given[0]), model.predict(code, spoilt[1], feeding, given[1])
    expected = naive.composite(model, windows, masks[0], ahead, masks[1], feeding)
    weights = list(model.parameters())
    upstream = [torch.randn_like(bars) for bars in made]
    found, wanted = (
        torch.autograd.grad(
            sum((part * up)[mask].sum() for part, up, mask in zip(parts, upstream, masks, strict=True)),
            weights, allow_unused=True, materialize_grads=True,
        )
        for parts in (made, expected)
    )  # fmt: skip
    for ours, theirs, mask in zip(made, expected, masks, strict=True):
        torch.testing.assert_close(ours[mask], theirs[mask], **parity.FLOAT64)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **parity.FLOAT64)
    assert sum(bool(gradient.any()) for gradient in found) >= len(weights) - 1  # a code needs no predictor's start


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_without_a_bar_after_it_has_a_finite_prediction_and_changes_no_other(kind):
    model, code = make_model(kind), torch.randn(B, Z).double()
    mask = torch.tensor([[True] * P, [False] * P, [True, False, True, False]])
    made = model.predict(code, mask=mask)
    assert made.isfinite().all()
    torch.testing.assert_close(made[::2], model.predict(code[::2], mask=mask[::2]), **parity.FLOAT64)


@pytest.mark.parametrize("decoder", KINDS)
def test_without_a_predictor_the_model_is_what_it_was(decoder):
    """Check that names and weights are as before, and that a predictor leaves the first decoder's weights alone."""
    torch.manual_seed(3)
    alone = models.build(F, decoder=decoder, hidden_size=H, latent_dim=Z)
    torch.manual_seed(3)
    both = models.build(F, decoder=decoder, hidden_size=H, latent_dim=Z, predictor="conditional", horizon=P)
    assert [name for name in both.state_dict() if name not in alone.state_dict()] == [
        name for name in both.state_dict() if name.startswith("predictor.")
    ]
    assert all(torch.equal(both.state_dict()[name], weights) for name, weights in alone.state_dict().items())
    assert alone.predictor is None
    assert alone.horizon == 0
    with pytest.raises(ValueError, match="predictor is none; it must be repeat, autoregressive or conditional"):
        alone.predict(torch.randn(B, Z))


@pytest.mark.parametrize("layers", slow_but([1], [1, 2]))
@pytest.mark.parametrize("kind", KINDS)
def test_the_portable_form_predicts_the_same(kind, layers):
    model, code = make_model(kind, layers=layers).eval(), torch.randn(B, Z).double()
    with torch.no_grad():
        torch.testing.assert_close(portable(model).predict(code), model.predict(code), **parity.FLOAT64)


def test_the_truth_of_another_length_is_refused():
    model, feeding = make_model(), Feeding(torch.ones(P, dtype=torch.bool), False, 0)
    with pytest.raises(ValueError, match=rf"truth is \({B}, {T}, {F}\)"):
        model.predict(torch.randn(B, Z).double(), torch.randn(B, T, F).double(), feeding)


@pytest.mark.parametrize(
    ("predictor", "horizon", "reverse", "message"),
    [
        (True, 0, False, "predictor.horizon is 0; it must be at least 1"),
        (False, 4, False, "predictor.horizon is 4; it must be 0 without a predictor"),
        (True, 4, True, "predictor.decoder.reverse is true; it must be false: .* from the first to the last"),
    ],
)
def test_what_is_refused_names_value_and_bound(predictor, horizon, reverse, message):
    model = make_model()
    second = parity.make_decoder(parity.DECODERS[1], F=F, Z=Z, H=H, reverse=reverse) if predictor else None
    with pytest.raises(ValueError, match=message):
        Autoencoder(model.encoder, model.bridge, model.decoder, None, second, horizon)


def test_build_refuses_a_horizon_below_one():
    with pytest.raises(ValueError, match=r"build\.horizon is 0; it must be at least 1"):
        models.build(F, predictor="repeat", horizon=0)
