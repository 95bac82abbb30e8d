"""A trained run as one file that needs no refold: ONNX, or a program of `torch.export`.

Letters: B windows, T bars, F features, Z numbers of a code, H hidden size, L layers, K assets of a panel.

    features (B, T, F) -> reconstruction (B, T, F), code (B, Z), score (B, T), or (B, T, K) of a panel

B and T stay free. Features go in and come out in their own units: scaler and score stand in the graph.

The LSTMs of the graph are one opaque operator (models/portable.py): an ONNX file gets the standard LSTM operator in its
place, a program of `torch.export` gets `aten.lstm`, which any PyTorch runs.
"""

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from refold.errors import ConfigError, RefoldError
from refold.models.portable import OPERATOR, portable
from refold.scoring.scores import GaussStatic, LatentNeighbours, Mahalanobis, Score

if TYPE_CHECKING:
    from refold.library.run import Run

OUTPUTS = ("reconstruction", "code", "score")

TOLERANCE = 1e-4
"""Largest difference to PyTorch that a written file may have: of a reconstruction in training standard deviations, of a
code or score c in units of 1 + |c|. Sums of float32 in another order differ by some 1e-6, a wrong graph by far more."""


# ---- scores of windows alone -----------------------------------------------------------------------------------------


def log_survival(z: Tensor) -> Tensor:
    """-ln(1 - Phi(z)) from operators that ONNX has, to 2e-6: erf up to z = 2, Laplace's continued fraction beyond."""
    near = -torch.log(0.5 * (1 - torch.erf(z.clamp(max=2.0).float() / math.sqrt(2))))
    far = z.clamp(min=2.0)
    fraction = far
    for n in range(30, 0, -1):
        fraction = far + n / fraction
    return torch.where(z < 2, near.to(z.dtype), far.square() / 2 + math.log(math.sqrt(2 * math.pi)) + fraction.log())


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """(B, Z) by (n, Z) -> (B, n), by a product of float64 matrices, where torch.cdist branches on B."""
    left, right = left.double(), right.double()
    squares = left.square().sum(1, keepdim=True) + right.square().sum(1)
    return (squares - 2 * left @ right.T).clamp(min=0)


class _Scored(nn.Module):
    """A score of the bars of lone windows: (B, T, F) and their reconstructions, scaled -> (B, T, C) contributions.

    Raises: ConfigError: the score of a bar depends on bars that its window does not hold.
    """

    def __init__(self, score: Score) -> None:
        super().__init__()
        if score.before or score.after:
            after = f" and the {score.after} after it" if score.after else ""
            raise ConfigError(
                f"score is {type(score).__name__}: it compares a bar with the {score.before} before it{after}, which a "
                "window alone does not hold. Export a run with another one, such as score=gauss_s, or score with "
                "scripts/score.py"
            )
        self.score = score
        if isinstance(score, Mahalanobis):
            self.register_buffer("precision", torch.cholesky_inverse(score.factor))

    def measure(self, scaled: Tensor, made: Tensor, code: Tensor) -> Tensor:
        """What the score sees of each bar, (B, T, C), float64."""
        score = self.score
        if isinstance(score, LatentNeighbours):
            distances = _squared_distances(code / score.deviation, score.reference).sqrt()
            nearest = distances.topk(min(score.neighbours, len(score.reference)), dim=1, largest=False).values.mean(1)
            return nearest[:, None, None].expand(-1, scaled.shape[1], 1)
        return score.measure(scaled, made, code).double()

    def contributions(self, values: Tensor) -> Tensor:
        """(..., C) -> (..., C); their sum is the score."""
        score = self.score
        if isinstance(score, Mahalanobis):
            deviation = values - score.mean
            return deviation * (deviation @ self.precision)
        if isinstance(score, GaussStatic):
            variance = score.mean_square - score.mean.square()
            return log_survival((values - score.mean) / variance.clamp(min=0).sqrt().clamp(min=score.floor))
        return score.contributions(values.flatten(0, -2), None).view_as(values)


# ---- the graph -------------------------------------------------------------------------------------------------------


class Portable(nn.Module):
    """All that a window goes through: scaler, autoencoder, score. Every bar of a window must be there.

    Args: run: with a fitted detector.
    """

    def __init__(self, run: "Run") -> None:
        super().__init__()
        if run.detector is None:
            raise ConfigError(f"{run.directory} has no fitted score; it gets one at the end of its training")
        self.autoencoder = portable(run.autoencoder)
        self.scored = _Scored(run.detector.score_function)
        self.register_buffer("mean", run.scaler.mean)
        self.register_buffer("std", run.scaler.std)
        self.relative = relative_columns(run)
        self.width = len(run.detector.features)  # columns of one asset
        self.panel = run.detector.recipe.layout == "panel"
        self.requires_grad_(False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = (features.double() - self.mean) / self.std
        if self.relative:  # of these a window sees only the distance to its first bar
            first = torch.zeros_like(self.mean)
            first[list(self.relative)] = 1.0
            scaled = scaled - scaled[:, :1] * first
        scaled = scaled.to(features.dtype)
        code = self.autoencoder.encode(scaled)
        made = self.autoencoder.decode(code, features.shape[1])
        values = self.scored.measure(scaled, made, code)
        if self.panel and self.scored.score.names_features:
            values = values.unflatten(2, (-1, self.width))  # (B, T, K F) -> (B, T, K, F)
        elif self.panel:
            values = values.unsqueeze(2)  # one for all assets: (B, T, 1, 1)
        score = self.scored.contributions(values).sum(-1)
        return (made * self.std + self.mean).to(features.dtype), code, score.to(features.dtype)


def relative_columns(run: "Run") -> list[int]:
    """Columns of which a window sees only the distance to its first bar (`Feature.relative`)."""
    from refold.data.bars.features import find

    own = [find(name).relative for name in run.detector.features]
    return [column for column in range(len(run.scaler.mean)) if own[column % len(own)]]


@torch.inference_mode()
def reference(run: "Run", features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `Portable` computes, by the parts of the run themselves."""
    scaled = run.scaler.transform(features)
    for column in relative_columns(run):
        scaled[..., column] -= scaled[:, :1, column].clone()
    code = run.autoencoder.encode(scaled)
    made = run.autoencoder.decode(code, features.shape[1])
    score = run.detector.score_function
    values = score.measure(scaled, made, code)
    B, T, C = values.shape
    panel, width = run.detector.recipe.layout == "panel", len(run.detector.features)
    values = values.reshape(B * T, -1, width if panel and score.names_features else C)  # (B T, K, C)
    rows = values.shape[0] * values.shape[1]
    contributions = score.contributions(values.flatten(0, 1).double(), torch.zeros(rows).numpy())
    scores = contributions.sum(1).view(B, T, -1)
    return run.scaler.inverse_transform(made), code, (scores if panel else scores.squeeze(2)).to(features.dtype)


# ---- the files -------------------------------------------------------------------------------------------------------


def trace(run: "Run") -> ExportedProgram:
    """The graph of a run, B and T free; T up to `longest_window`."""
    longest = longest_window(run)
    T = max(run.config.data.window_size, 1 if longest == 1 else 2)  # a size of 1 in the example would stay fixed
    example = torch.zeros(4, T, len(run.scaler.mean))
    shapes = {"features": {0: Dim("B", min=1), **({} if longest == 1 else {1: Dim("T", min=1, max=longest)})}}
    with torch.no_grad(), _quiet():
        try:
            return torch.export.export(Portable(run).eval(), (example,), dynamic_shapes=shapes, strict=False)
        except RefoldError:
            raise
        except Exception as error:  # a part of one's own that torch.export cannot follow; it fails in many ways
            parts = [type(part).__name__ for part in (*run.autoencoder.children(), run.detector.score_function)]
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"torch.export cannot follow one of {', '.join(parts)}: {reason}") from error


def longest_window(run: "Run") -> int | None:
    """Bars that a window may have; None: any number. A linear path has weights for each bar of the run's windows."""
    return None if run.autoencoder.linear is None else run.config.data.window_size


def write(run: "Run", path: Path, format: str) -> float:
    """Export a run, and keep the file only if it computes what the run does.

    Args: format: onnx or torch_export. Returns: the largest difference found, in the units of TOLERANCE.
    Raises: ConfigError: the run cannot be exported, or a package is not installed. RefoldError: the file differs.
    """
    save, load, _suffix = FORMATS[format]
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"out is {path}; it must be a file in a folder that exists")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _quiet():
            save(trace(run), partial, notes(run))
            difference = largest_difference(run, load(partial))
        if not difference <= TOLERANCE:
            raise RefoldError(
                f"the {format} file differs from PyTorch by {difference:.1e}; it may by {TOLERANCE:g}; it is not kept"
            )
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"out is {path}; it cannot be written: {error.strerror}") from None
    finally:
        if partial.exists():
            partial.unlink()
    return difference


def notes(run: "Run") -> dict[str, str]:
    """What a user of the file must know, kept in it."""
    detector = run.detector
    return {
        "columns": json.dumps(list(detector.columns)),
        "window_size": str(run.config.data.window_size),
        "longest_window": json.dumps(longest_window(run)),
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "threshold_level": repr(float(detector.threshold.level)),
        "alignment": detector.alignment,
        "run": str(run.config.run.id),
    }


def largest_difference(run: "Run", call: Callable[[Tensor], Sequence[Tensor]]) -> float:
    """Between a file and the run, over random features of several B and T, in the units of TOLERANCE."""
    generator = torch.Generator().manual_seed(0)
    T = run.config.data.window_size
    lengths = sorted({1, max(1, T - 1), T, 2 * T + 3 if longest_window(run) is None else T})
    differences = []
    for bars in lengths:
        for batch in (1, 3, 64):
            noise = torch.randn(batch, bars, len(run.scaler.mean), generator=generator, dtype=torch.float64)
            features = (noise * run.scaler.std + run.scaler.mean).float()
            for name, made, wanted in zip(OUTPUTS, call(features), reference(run, features), strict=True):
                if made.shape != wanted.shape:
                    raise RefoldError(f"the file's {name} is {tuple(made.shape)}; PyTorch's is {tuple(wanted.shape)}")
                unit = run.scaler.std if name == "reconstruction" else 1 + wanted.abs()
                differences.append(((made - wanted).abs() / unit).max())
    return torch.stack(differences).max().item()  # NaN, if one is


def _save_onnx(program: ExportedProgram, path: Path, notes: dict[str, str]) -> None:
    try:
        from onnxscript.function_libs.torch_lib.ops.core import aten_lstm
    except ImportError:
        raise ConfigError("format is onnx, which needs its packages: pip install 'refold[onnx]'") from None
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["features"],
        output_names=list(OUTPUTS),
        custom_translation_table={OPERATOR: aten_lstm},
    )
    exported.model.metadata_props.update(notes)
    exported.save(path, external_data=False)


def _load_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("format is onnx, which is checked with onnxruntime: pip install 'refold[onnx]'") from None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda features: [torch.from_numpy(part) for part in session.run(OUTPUTS, {"features": features.numpy()})]


def _save_program(program: ExportedProgram, path: Path, notes: dict[str, str]) -> None:
    for node in program.graph.nodes:
        if node.target is OPERATOR:
            node.target = torch.ops.aten.lstm.input  # the same arguments, and no refold to load it
    program.graph_module.recompile()
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"notes.json": json.dumps(notes)})


def _load_program(path: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def call(features: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(features)

    return call


class Format(NamedTuple):
    """How a file is written, how it is called, and how its name ends."""

    save: Callable[[ExportedProgram, Path, dict[str, str]], None]
    load: Callable[[Path], Callable[[Tensor], Sequence[Tensor]]]
    suffix: str


FORMATS = {
    "onnx": Format(_save_onnx, _load_onnx, ".onnx"),
    "torch_export": Format(_save_program, _load_program, ".pt2"),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell about themselves: warnings about their own code, packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
