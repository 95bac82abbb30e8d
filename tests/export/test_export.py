"""Exported files give what the run gives, for any number of windows and bars."""

import copy
import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT, compose_run, slow_but
from torch import nn

from refold.config.build import build_autoencoder, build_detector, build_recipe
from refold.data import Scaler
from refold.data.windows.scaler import AssetScaler, TrailingScaler
from refold.errors import ConfigError, RefoldError
from refold.export import graph
from refold.export import writer as export
from refold.export.writer import export_run, largest_difference, trace
from refold.library.run import Run
from refold.models import Autoencoder
from refold.models.portable import frozen, portable

SMALL = ["layers.hidden_size=6", "layers.latent_dim=3", "data.window_size=9"]
STATES = ["bridge=states", "encoder=bilstm", "decoder.hidden_size=12"]


def make_run(*overrides: str, columns: int | None = None) -> Run:
    """A run with random weights and scale, its score fitted to random errors and codes."""
    torch.manual_seed(0)
    cfg = compose_run([*SMALL, *overrides])
    names = list(cfg.data.features)
    F = columns or len(names)
    autoencoder = build_autoencoder(cfg, F).eval()
    for weights in autoencoder.parameters():
        nn.init.normal_(weights, std=0.3)
    scaler = Scaler(torch.randn(F).double() * 0.01, torch.rand(F).double() * 0.02 + 0.005)
    detector = build_detector(cfg, autoencoder, build_recipe(cfg), scaler, names * (F // len(names)))
    score = detector.score_function
    if score.reads_codes:
        score.fit_codes(torch.randn(200, autoencoder.code_size))
    score.fit(torch.randn(500, len(names) * (2 if score.errors_of == "both" else 1)).abs().double())
    detector.threshold.fit(torch.rand(500).numpy())
    return Run(Path("run"), cfg, autoencoder, scaler, names, detector)


CHAINS = {
    "repeat, two layers, states, both directions": ["decoder=repeat", "layers=two", *STATES, "score=gauss_s"],
    "repeat, last bar first": ["decoder=repeat", "decoder.reverse=true"],
    "autoregressive, learned start": ["decoder=autoregressive", "decoder.start_token=learned", "score=latent_knn"],
    "autoregressive, first bar first": ["decoder=autoregressive", "decoder.reverse=false", "encoder=bilstm"],
    "autoregressive, two layers, states": ["decoder=autoregressive", "layers=two", *STATES],
    "conditional, states": ["decoder=conditional", *STATES],
    "conditional, linear path": ["decoder=conditional", "bridge.linear_path=pca"],
    "conditional, normalised windows": ["decoder=conditional", "bridge=latent_normalized"],
    "conditional, three layers, learned start": ["decoder=conditional", "layers=three", "decoder.start_token=learned"],
    "repeat, and a predictor": ["decoder=repeat", "predictor=conditional", "predictor.decoder.start_token=learned"],
    "two layers, normalised, and a predictor": [
        "decoder=autoregressive", "layers=two", "bridge=latent_normalized", "predictor=autoregressive",
        "predictor.horizon=2",
    ],
    "conditional, two layers, first bar first": ["decoder=conditional", "layers=two", "decoder.reverse=false"],
}  # fmt: skip


@functools.cache
def chained(chain: str) -> Autoencoder:
    return make_run(*CHAINS[chain]).autoencoder.double()


IN_SHORT = ["conditional, linear path", "two layers, normalised, and a predictor"]


@pytest.mark.parametrize("chain", slow_but(IN_SHORT, CHAINS))
@pytest.mark.parametrize("window_size", [1, 2, 17])
@pytest.mark.parametrize("form", [portable, frozen])
def test_another_form_of_the_autoencoder_is_the_autoencoder(form, chain, window_size):
    autoencoder = chained(chain)
    torch.manual_seed(window_size)
    if autoencoder.linear is not None:
        window_size = min(window_size, 9)
    windows = torch.randn(5, window_size, 5, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(form(autoencoder)(windows), autoencoder(windows), rtol=0, atol=1e-12)


SIZES = [(1, 9), (4, 9), (1, 1), (7, 1), (5, 8), (33, 30)]


def features_of(run: Run, B: int, T: int) -> torch.Tensor:
    noise = torch.randn(B, T, len(run.scaler.mean), generator=torch.Generator().manual_seed(B * T), dtype=torch.float64)
    return (noise * run.scaler.std + run.scaler.mean).float()


def agree(run: Run, call: Callable) -> None:
    """Compare with the run's own parts, put together here once more."""
    longest = export.longest_window(run)
    for B, T in SIZES if longest is None else [(B, T) for B, T in SIZES if longest >= T]:
        features = features_of(run, B, T)
        with torch.no_grad():
            scaled = run.scaler.transform(features)
            code = run.autoencoder.encode(scaled)
            made = run.autoencoder.decode(code, T)
            score = run.detector.score_function
            values = score.measure(scaled, made, code)
            expected = score.contributions(values.flatten(0, 1).double(), np.zeros(B * T, int)).sum(1).view(B, T)
            ahead = [run.autoencoder.predict(code)] if run.autoencoder.horizon else []
        reconstruction, codes, scores, *prediction = (np.asarray(part) for part in call(features))
        for found, wanted in zip(prediction, ahead, strict=True):
            off = (found - run.scaler.inverse_transform(wanted).numpy()) / run.scaler.std.numpy()
            np.testing.assert_allclose(off, 0, atol=5e-6)
        off = (reconstruction - run.scaler.inverse_transform(made).numpy()) / run.scaler.std.numpy()
        np.testing.assert_allclose(off, 0, atol=5e-6)
        np.testing.assert_allclose(codes, code, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)


IN_ONNX = [
    "repeat, two layers, states, both directions",
    "autoregressive, learned start",
    "autoregressive, two layers, states",
    "conditional, linear path",
    "conditional, normalised windows",
    "conditional, three layers, learned start",
    "repeat, and a predictor",
    "two layers, normalised, and a predictor",
]
IN_PROGRAMS = ["repeat, last bar first", "conditional, linear path", "conditional, normalised windows"]


@pytest.mark.slow
@pytest.mark.parametrize("chain", IN_ONNX)
def test_onnx_gives_what_pytorch_gives(tmp_path, chain):
    run = make_run(*CHAINS[chain])
    assert export_run(run, tmp_path / "model.onnx", "onnx") < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    agree(run, lambda features: session.run(None, {"features": features.numpy()}))
    (given,) = session.get_inputs()
    assert given.shape[2] == 5
    assert all(isinstance(size, str) for size in given.shape[:2])  # free
    names = ["reconstruction", "code", "score", *(["prediction"] if run.autoencoder.horizon else [])]
    assert [output.name for output in session.get_outputs()] == names
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["columns"]) == run.detector.columns
    assert float(notes["threshold_level"]) == run.detector.threshold.level
    assert json.loads(notes["threshold_levels"]) == {
        name: own.level for name, own in run.detector.threshold.own.items()
    }


@pytest.mark.slow
def test_the_code_in_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, of_assets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), flags=re.DOTALL)
    run = make_run("data.window_size=32")
    export_run(run, tmp_path / "model.onnx", "onnx")
    names: dict = {}
    exec(plain, names)
    assert names["strange"].shape == (2, 32)
    assert names["columns"] == run.features
    exec(of_assets, names)
    assert names["number"].tolist() == [-1, -1]
    mean, std = run.scaler.mean, run.scaler.std
    run.scaler = AssetScaler(mean, std, {"AAPL": (mean, std), "MSFT": (mean, std * 2)})
    export_run(run, tmp_path / "apart.onnx", "onnx")
    names["session"] = onnxruntime.InferenceSession("apart.onnx")
    names["notes"] = names["session"].get_modelmeta().custom_metadata_map
    exec(of_assets, names)
    assert names["number"].tolist() == [1, -1]
    assert names["score"].shape == (2, 32)


@pytest.mark.slow
@pytest.mark.parametrize("chain", IN_PROGRAMS)
def test_a_program_gives_what_pytorch_gives(tmp_path, chain):
    run = make_run(*CHAINS[chain])
    assert export_run(run, tmp_path / "model.pt2", "torch_export") < 1e-5
    agree(run, lambda features: torch.export.load(tmp_path / "model.pt2").module()(features))


@pytest.mark.slow
def test_a_program_needs_no_refold(tmp_path):
    run = make_run(*CHAINS["autoregressive, two layers, states"])
    export_run(run, tmp_path / "model.pt2", "torch_export")
    features = features_of(run, 3, 5)
    torch.save(features, tmp_path / "features.pt")
    code = """
import sys, torch
program = torch.export.load("model.pt2")
torch.save(program.module()(torch.load("features.pt")), "outputs.pt")
assert not [name for name in sys.modules if name.startswith("refold")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for made, wanted in zip(torch.load(tmp_path / "outputs.pt"), graph.reference(run, features), strict=True):
        torch.testing.assert_close(made.detach(), wanted, rtol=1e-5, atol=1e-5)


@functools.cache
def graph_of(*overrides: str, columns: int | None = None):
    run = make_run(*overrides, columns=columns)
    return run, trace(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "score",
    slow_but(
        ["mahalanobis"],
        ["squared_error", "absolute_error", "mahalanobis", "student", "features", "gauss_s", "latent_knn"],
    ),
)
def test_every_score_of_lone_windows_is_exported(score):
    run, program = graph_of(f"score={score}")
    agree(run, program.module())


def test_survival_is_exact_near_and_far():
    z = torch.linspace(-8, 200, 5001, dtype=torch.float64)
    torch.testing.assert_close(graph.portable_log_survival(z), -torch.special.log_ndtr(-z), rtol=1e-6, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("score", slow_but(["latent_knn"], ["mahalanobis", "latent_knn"]))
def test_a_panel_is_scored_asset_by_asset(score):
    run, program = graph_of("data=panel", f"score={score}", columns=6)
    assert len(run.detector.features) == 1
    features = features_of(run, 3, 4)
    _, _, scores = program.module()(features)
    if score == "latent_knn":  # one distance for all
        assert scores.shape == (3, 4, 1)
        return
    scaled = run.scaler.transform(features)
    errors = (run.autoencoder(scaled) - scaled).abs().double()
    assert scores.shape == (3, 4, 6)
    for asset in range(6):
        own = errors[:, :, asset : asset + 1].detach()
        expected = run.detector.score_function.contributions(own.flatten(0, 1), None).sum(1).view(3, 4)
        torch.testing.assert_close(scores[..., asset].double().detach(), expected, rtol=1e-4, atol=1e-4)


def test_of_a_relative_feature_the_level_of_the_window_does_not_matter():
    run, program = graph_of("data.features=[log_return,window_log_price]")
    call = program.module()
    features = features_of(run, 4, 9)
    moved = features + torch.tensor([0.0, 3.0])
    first = features - features[:, :1] * torch.tensor([0.0, 1.0])
    with torch.no_grad():
        for one, other in zip(call(features), call(moved), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        scaled = (first - run.scaler.mean * torch.tensor([1.0, 0.0])) / run.scaler.std
        torch.testing.assert_close(call(features)[1], run.autoencoder.encode(scaled.float()), rtol=1e-4, atol=1e-5)


def test_windows_of_one_bar_on_a_linear_path():
    run, program = graph_of("bridge.linear_path=pca", "data.window_size=1")
    call = program.module()
    assert largest_difference(run, call) < 1e-5


@pytest.mark.parametrize("score", ["gauss_d", "gauss_d_k"])
def test_a_score_that_remembers_is_refused(tmp_path, score):
    with pytest.raises(
        ConfigError, match=r"it compares a bar with the \d+ before it.* which a window alone does not hold"
    ):
        export_run(make_run(f"score={score}"), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("score", slow_but(["prediction"], ["prediction", "composite"]))
def test_a_score_of_predicted_bars_is_refused_and_the_prediction_is_exported(tmp_path, score):
    with pytest.raises(ConfigError, match="with what windows before it predicted, which a window alone does not hold"):
        export_run(make_run(f"score={score}", "predictor=repeat"), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    run, program = graph_of("predictor=repeat", "predictor.horizon=3")
    agree(run, program.module())
    assert program.module()(features_of(run, 2, 6))[3].shape == (2, 3, 5)


def scaled_apart(kind: type[AssetScaler], *overrides: str) -> Run:
    """A run of two assets that differ in level and unit."""
    run = make_run(*overrides)
    mean, std = run.scaler.mean, run.scaler.std
    run.scaler = kind(mean, std, {"calm": (mean / 2, std / 10), "wild": (mean + 0.1, std * 3)})
    return run


def of_asset(run: Run, name: str) -> Run:
    """The same run with the scale of one asset for all."""
    alone = copy.copy(run)
    alone.scaler = run.scaler.of(name)
    return alone


@functools.cache
def exported_apart(format: str) -> tuple[Run, Callable, dict[str, str]]:
    """A run with a scale per asset and a relative feature, its file, and the file's notes."""
    run = scaled_apart(
        AssetScaler, "data.features=[log_return,window_log_price]", "predictor=repeat", "predictor.horizon=2"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        assert export_run(run, path, format) < 1e-5
        if format == "torch_export":
            extra = {"notes.json": ""}
            program = torch.export.load(path, extra_files=extra).module()
            return run, lambda *inputs: program(*inputs), json.loads(extra["notes.json"])
        session = onnxruntime.InferenceSession(path.read_bytes())
    names = [given.name for given in session.get_inputs()]
    assert names == ["features", "asset"]
    notes = session.get_modelmeta().custom_metadata_map
    return run, lambda *inputs: session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True))), notes


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_each_asset_is_scaled_by_its_own_scale(format):
    run, call, notes = exported_apart(format)
    assert json.loads(notes["assets"]) == ["calm", "wild"]
    for asset, number in (("calm", 0), ("wild", 1), ("stranger", -1)):
        alone = of_asset(run, asset)
        for B, T in SIZES:
            features = features_of(alone, B, T)
            numbers = torch.full((B,), number)
            made = call(features, numbers)
            for found, wanted in zip(made, graph.reference(alone, features), strict=True):
                off = (np.asarray(found) - wanted.numpy()) / (alone.scaler.std.numpy() if found.ndim == 3 else 1)
                np.testing.assert_allclose(off, 0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_windows_of_several_assets_go_in_one_batch(format):
    run, call, _ = exported_apart(format)
    features = features_of(run, 6, 9)
    numbers = torch.tensor([0, 1, -1, 1, -1, 0])
    at_once = call(features, numbers)
    for n in range(6):
        for whole, single in zip(at_once, call(features[n : n + 1], numbers[n : n + 1]), strict=True):
            np.testing.assert_allclose(whole[n], single[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(at_once[2][0], call(features, 1 - numbers)[2][0], rtol=0.01)


def test_a_file_with_the_scales_of_other_assets_differs():
    run = scaled_apart(AssetScaler)
    assert largest_difference(run, lambda features, asset: graph.reference(run, features, asset)) == 0
    assert largest_difference(run, lambda features, asset: graph.reference(run, features, -1 - asset)) > 1e-2


def test_a_trailing_scale_is_refused(tmp_path):
    """Also one that was chosen: the settings do not say it then."""
    message = (
        r"data.scale is trailing: each bar is scaled by the 252 bars before it, which a window alone does not hold"
    )
    with pytest.raises(ConfigError, match=message):
        export_run(scaled_apart(TrailingScaler), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """A decoder that torch.export cannot follow."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 2)

    def forward(self, conditioning, state, *, window_size, **_):
        return conditioning.new_full(
            (len(conditioning), window_size, 5), conditioning.sum().item() if conditioning.sum() > 0 else 0
        )


def test_a_part_that_cannot_be_followed_is_named(tmp_path):
    run = make_run()
    run.autoencoder.decoder = Branching()
    with pytest.raises(ConfigError, match=r"torch.export cannot follow one of LSTMEncoder, LatentBridge, Branching, "):
        export_run(run, tmp_path / "model.pt2", "torch_export")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    run = make_run()
    other = make_run()
    with torch.no_grad():
        other.autoencoder.decoder.projection.bias += 1e-3
    monkeypatch.setattr(export, "trace", lambda _: trace(other))
    with pytest.raises(RefoldError, match=r"differs from PyTorch by \d\.\de-0[23]; it may by 0\.0001; it is not kept"):
        export_run(run, tmp_path / "model.pt2", "torch_export")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export.FORMATS, "torch_export", export.FORMATS["torch_export"]._replace(save=full))
    monkeypatch.setattr(export, "trace", lambda run: None)
    with pytest.raises(ConfigError, match=r"out is model.pt2; it cannot be written: No space left on device"):
        export_run(make_run(), Path("model.pt2"), "torch_export")


def test_an_output_that_is_not_a_number_differs():
    run = make_run()

    def broken(features):
        made, code, score = graph.reference(run, features)
        return made, code, score * float("nan") if features.shape[:2] == (3, 1) else score

    assert np.isnan(largest_difference(run, broken))
    assert largest_difference(run, lambda features: graph.reference(run, features)) == 0


def test_a_run_without_a_fitted_score_is_refused(tmp_path):
    run = make_run()
    run.detector = None
    with pytest.raises(ConfigError, match="has no fitted score; it gets one at the end of its training"):
        export_run(run, tmp_path / "model.onnx", "onnx")


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript.function_libs.torch_lib.ops.core", None)
    with pytest.raises(ConfigError, match=r"pip install 'refold\[onnx\]'"):
        export_run(make_run(), tmp_path / "model.onnx", "onnx")


def test_a_copy_is_made_and_the_run_stays_as_it_is():
    run = make_run("decoder=conditional", "layers=two")
    before = type(run.autoencoder.decoder), type(run.autoencoder.encoder.lstm)
    assert isinstance(portable(run.autoencoder), Autoencoder)
    assert before == (type(run.autoencoder.decoder), type(run.autoencoder.encoder.lstm))


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def call(script) -> Callable[..., tuple[int, str, str]]:
    """`python scripts/export.py ...`, in this process: exit status, stdout, stderr."""
    return partial(script, "export")


@pytest.mark.slow
def test_a_trained_run_is_exported_by_the_command(tiny_run, tmp_path, call):
    tiny_run("bridge=latent_pca")
    status, out, err = call(f"run={tmp_path / 'run'}", "format=torch_export")
    assert (status, err) == (0, "")
    assert re.search(r"run/model.pt2, \d+ KiB\n", out)
    assert "takes features (B, T, 5): B any number of windows, T 1 to 32 bars, for which the linear path" in out
    assert "gives reconstruction, code, score; differs from PyTorch by at most " in out
    made, code, score = torch.export.load(tmp_path / "run/model.pt2").module()(torch.zeros(2, 20, 5))
    assert (made.shape, code.shape, score.shape) == ((2, 20, 5), (2, 4), (2, 20))
    extra = {"notes.json": ""}
    torch.export.load(tmp_path / "run/model.pt2", extra_files=extra)
    assert json.loads(extra["notes.json"])["window_size"] == "32"
    assert call(f"run={tmp_path / 'run'}", "format=torch_export", f"out={tmp_path}")[0] == 2
    status, _, err = call(f"run={tmp_path / 'run'}", f"out={tmp_path}/nowhere/model.onnx")
    assert (status, err.strip()) == (
        2,
        f"out is {tmp_path}/nowhere/model.onnx; it must be a file in a folder that exists",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run has no value; give one: run=outputs/latest"),
        (("run=nowhere",), "nowhere is not a finished run: there is no "),
        (("run=x", "format=tflite"), "format is 'tflite'; it must be one of onnx, torch_export"),
        (("run=x", "fromat=onnx"), "fromat: there is no such key; did you mean format?; there are run, format, out"),
        (("onnx",), "onnx: it cannot be read as key=value"),
    ],
)
def test_a_mistake_ends_in_one_message(call, arguments, message):
    status, out, err = call(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1
