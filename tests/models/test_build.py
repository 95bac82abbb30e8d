"""`refold.models.build`: it derives sizes, has the defaults of conf/, and refuses what cannot be built."""

import inspect
import subprocess
import sys
from itertools import combinations, product

import pytest
import torch
import yaml
from conftest import CONF, compose_run, slow_but

from refold import models
from refold.config.build import build_autoencoder

B, T, F = 3, 7, 5
BRIDGES = ["latent", "latent_normalized", "latent_pca", "states"]
DECODERS = ["repeat", "autoregressive", "conditional"]
ENCODERS = [None, "lstm", "bilstm"]


def section(path):
    """Return the keys of one YAML of conf/, without those that it inherits."""
    return yaml.safe_load((CONF / path).read_text())


PARTS = [
    (bridge, decoder, encoder, layers)
    for b, bridge in enumerate(BRIDGES)
    for d, decoder in enumerate(DECODERS)
    for encoder, layers in ((ENCODERS[(b + d) % 3], 1 + d % 2), (ENCODERS[(b + d + 1) % 3], 2 - d % 2))
    if (bridge, encoder) != ("states", "bilstm")
]  # refused at these sizes
"""Combinations in which every two values of different choices occur together."""


def test_every_two_choices_of_different_parts_meet():
    choices = [BRIDGES, DECODERS, ENCODERS, [1, 2]]
    for first, second in combinations(range(4), 2):
        pairs = set(product(choices[first], choices[second])) - {("states", "bilstm")}
        assert {(parts[first], parts[second]) for parts in PARTS} == pairs


@pytest.mark.parametrize(("bridge", "decoder", "encoder", "layers"), slow_but(PARTS[::4], PARTS))
def test_the_same_model_as_from_the_configuration(bridge, decoder, encoder, layers):
    chosen = [] if encoder is None else [f"encoder={encoder}"]
    cfg = compose_run([f"bridge={bridge}", f"decoder={decoder}", f"layers={'one' if layers == 1 else 'two'}", *chosen])
    window = {"window_size": cfg.data.window_size} if bridge == "latent_pca" else {}
    ours = models.build(F, encoder=encoder, bridge=bridge, decoder=decoder, layers=layers, **window)
    configured = build_autoencoder(cfg, num_features=F)
    assert repr(ours) == repr(configured)  # modules, sizes, dropout
    assert {name: part.shape for name, part in ours.state_dict().items()} == {
        name: part.shape for name, part in configured.state_dict().items()
    }
    assert ours.decoder.reverse == configured.decoder.reverse
    assert ours.normalize_windows == configured.normalize_windows
    ours.load_state_dict(configured.state_dict())
    windows = torch.randn(B, T, F)
    assert torch.equal(ours.eval()(windows), configured.eval()(windows))
    assert ours(windows).shape == (B, T, F)


def test_defaults_are_those_of_conf():
    defaults = {name: part.default for name, part in inspect.signature(models.build).parameters.items()}
    chosen = {group: option for line in section("train.yaml")["defaults"] if isinstance(line, dict)
              for group, option in line.items()}  # fmt: skip
    one, latent, fed = section("layers/one.yaml"), section("bridge/latent.yaml"), section("decoder/autoregressive.yaml")
    assert (chosen["decoder"], chosen["bridge"], chosen["layers"]) == (defaults["decoder"], defaults["bridge"], "one")
    assert one == {"num_layers": defaults["layers"], **{name: defaults[name] for name in ("hidden_size", "latent_dim")}}
    assert latent["dropout"] == defaults["bridge_dropout"]
    assert (fed["dropout"], fed["reverse"], fed["start_token"]) == (
        defaults["dropout"], defaults["reverse"], defaults["start_token"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "build.num_features is 0; it must be at least 1"),
        ({"layers": 0}, "build.layers is 0; it must be at least 1"),
        ({"hidden_size": -1}, "build.hidden_size is -1; it must be at least 1"),
        ({"latent_dim": 0}, "build.latent_dim is 0; it must be at least 1"),
        ({"dropout": 1.0}, r"build.dropout is 1.0; it must be in \[0, 1\)"),
        ({"bridge_dropout": 1.0}, r"build.bridge_dropout is 1.0; it must be in \[0, 1\)"),
        ({"decoder": "vrnn"}, "build.decoder is 'vrnn'; it must be one of repeat, autoregressive, conditional"),
        ({"encoder": "gru"}, "build.encoder is 'gru'; it must be one of bilstm, lstm"),
        ({"bridge": "latent_pca"}, "build.window_size is None; with bridge=latent_pca it must be at least 1"),
        ({"bridge": "latent_normalized", "latent_dim": 1}, "bridge.latent_dim is 1; .* it must be at least 2"),
        ({"bridge": "states", "encoder": "bilstm"}, "decoder.hidden_size is 64; .* it must be equal to .* 128"),
    ],
)
def test_what_is_refused_names_value_and_bound(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(**{"num_features": F, **arguments})


ALONE = """
import importlib.abc, sys
import torch, torch.nn.functional
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # torch imports parts of itself when they are used

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        ours = name == "refold" or name.startswith(("refold.models", "refold.bounds", "refold.errors"))
        if not (ours or name.partition(".")[0] in {"torch", *sys.stdlib_module_names}):
            raise ModuleNotFoundError(f"{name} is refused")

sys.meta_path.insert(0, Refuse())
from refold import models
for bridge in ("latent", "latent_normalized", "states"):
    for decoder in ("repeat", "autoregressive", "conditional"):
        model = models.build(2, bridge=bridge, decoder=decoder, layers=2, hidden_size=4, latent_dim=3)
        model(torch.randn(2, 4, 2)).sum().backward()
models.build(2, predictor="conditional", horizon=3).predict(torch.randn(2, 16)).sum().backward()
"""


@pytest.mark.slow
def test_the_model_builds_and_learns_where_every_import_but_torch_is_refused():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
