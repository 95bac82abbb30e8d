"""A trained run as one file that needs no refold: ONNX, or a program of `torch.export`.

The file holds the graph of export/graph.py; B, the windows, and T, their bars, stay free. An ONNX file gets the
standard LSTM operator in the place of the graph's own, a program of `torch.export` gets `aten.lstm`, which any PyTorch
runs.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from refold.errors import ConfigError, RefoldError
from refold.export.graph import Portable, fitted_detector, reference, scale_of_windows, scaled_assets
from refold.models.portable import OPERATOR
from refold.scoring.protocols import TrainedRun


def input_names(run: TrainedRun) -> list[str]:
    """Return the names of a file's inputs, in their order: `asset` only where assets have scales of their own."""
    return ["features"] if scaled_assets(run) is None else ["features", "asset"]


def output_names(horizon: int) -> list[str]:
    """Return the names of a file's outputs, in their order.

    Args:
        horizon: P of the model, 0 without a predictor.
    """
    return ["reconstruction", "code", "score", *(["prediction"] if horizon else [])]


TOLERANCE = 1e-4
"""Largest difference to PyTorch that a written file may have: of a reconstruction in training standard deviations, of a
code or score c in units of 1 + |c|. Sums of float32 in another order differ by some 1e-6, a wrong graph by far more."""


def trace(run: TrainedRun) -> ExportedProgram:
    """Trace the graph of a run, with B and T free; T goes up to `longest_window`.

    Raises:
        ConfigError: torch.export cannot follow a part of the run, or a bar needs others than its window's.
    """
    longest, inputs = longest_window(run), input_names(run)
    T = max(run.config.data.window_size, 1 if longest == 1 else 2)  # a size of 1 in the example would stay fixed
    example = torch.zeros(4, T, len(run.scaler.mean)), torch.zeros(4, dtype=torch.int64)
    B = Dim("B", min=1)
    free = {"features": {0: B, **({} if longest == 1 else {1: Dim("T", min=1, max=longest)})}, "asset": {0: B}}
    shapes = {name: free[name] for name in inputs}
    with torch.no_grad(), _quiet():
        try:
            return torch.export.export(
                Portable(run).eval(), example[: len(inputs)], dynamic_shapes=shapes, strict=False
            )
        except RefoldError:
            raise
        except Exception as error:  # a part of one's own that torch.export cannot follow; it fails in many ways
            parts = [type(part).__name__ for part in (*run.autoencoder.children(), fitted_detector(run).score_function)]
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"torch.export cannot follow one of {', '.join(parts)}: {reason}") from error


def longest_window(run: TrainedRun) -> int | None:
    """Return how many bars a window may have, or None for any number.

    A linear path has weights for each bar of the run's windows.
    """
    return None if run.autoencoder.linear is None else run.config.data.window_size


def export_run(run: TrainedRun, path: Path, format: str) -> float:
    """Export a run, and keep the file only if it computes what the run computes.

    Args:
        run: a run with a fitted detector.
        path: path of the file, in a folder that exists.
        format: onnx or torch_export.

    Returns:
        The largest difference found, in the units of TOLERANCE.

    Raises:
        ConfigError: the run cannot be exported, or a package is not installed.
        RefoldError: the file differs.
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


def notes(run: TrainedRun) -> dict[str, str]:
    """Return what a user of the file must know; it is kept in the file."""
    detector = fitted_detector(run)
    return {
        "columns": json.dumps(list(detector.columns)),
        "assets": json.dumps(scaled_assets(run) or []),
        "window_size": str(run.config.data.window_size),
        "horizon": str(run.autoencoder.horizon),
        "longest_window": json.dumps(longest_window(run)),
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "threshold_level": repr(float(detector.threshold.level)),
        "threshold_levels": json.dumps({name: float(own.level) for name, own in detector.threshold.own.items()}),
        "alignment": detector.alignment,
        "run": str(run.config.run.id),
    }


def largest_difference(run: TrainedRun, call: Callable[..., Sequence[Tensor]]) -> float:
    """Return the largest difference between a file and the run, over random features of several B and T.

    Args:
        run: a run with a fitted detector.
        call: the inputs in the order of `input_names` -> the outputs in the order of `output_names`, by the file.

    Returns:
        The difference in the units of TOLERANCE; NaN if one is NaN.
    """
    generator = torch.Generator().manual_seed(0)
    T = run.config.data.window_size
    names, assets = output_names(run.autoencoder.horizon), scaled_assets(run)
    lengths = sorted({1, max(1, T - 1), T, 2 * T + 3 if longest_window(run) is None else T})
    differences = []
    for bars in lengths:
        for batch in (1, 3, 64):
            noise = torch.randn(batch, bars, len(run.scaler.mean), generator=generator, dtype=torch.float64)
            inputs = () if assets is None else (torch.randint(-1, len(assets), (batch,), generator=generator),)
            scale = scale_of_windows(run, *inputs)
            features = (noise * scale.std + scale.mean).float()
            for name, made, wanted in zip(
                names, call(features, *inputs), reference(run, features, *inputs), strict=True
            ):
                if made.shape != wanted.shape:
                    raise RefoldError(f"the file's {name} is {tuple(made.shape)}; PyTorch's is {tuple(wanted.shape)}")
                unit = scale.std if name in ("reconstruction", "prediction") else 1 + wanted.abs()
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
        input_names=["features", "asset"][: len(program.graph_signature.user_inputs)],
        output_names=output_names(int(notes["horizon"])),
        custom_translation_table={OPERATOR: aten_lstm},
    )
    assert exported is not None  # as it is with dynamo=True
    exported.model.metadata_props.update(notes)
    exported.save(path, external_data=False)


def _load_onnx(path: Path) -> Callable[..., list[Tensor]]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("format is onnx, which is checked with onnxruntime: pip install 'refold[onnx]'") from None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *inputs: [
        torch.from_numpy(part)
        for part in session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})
    ]


def _save_program(program: ExportedProgram, path: Path, notes: dict[str, str]) -> None:
    for node in program.graph.nodes:
        if node.target is OPERATOR:
            node.target = torch.ops.aten.lstm.input  # the same arguments, and no refold to load it
    program.graph_module.recompile()
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"notes.json": json.dumps(notes)})


def _load_program(path: Path) -> Callable[..., Sequence[Tensor]]:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def call(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(*inputs)

    return call


class Format(NamedTuple):
    """A format of files.

    Attributes:
        save: writes a program and its notes to a file.
        load: makes a file callable: its inputs -> its outputs.
        suffix: end of the file's name.
    """

    save: Callable[[ExportedProgram, Path, dict[str, str]], None]
    load: Callable[[Path], Callable[..., Sequence[Tensor]]]
    suffix: str


FORMATS = {
    "onnx": Format(_save_onnx, _load_onnx, ".onnx"),
    "torch_export": Format(_save_program, _load_program, ".pt2"),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: they warn about their own code and about packages that nobody needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
