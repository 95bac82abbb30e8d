"""Write a finished run as one file that needs no refold: scaler, autoencoder and score in one graph.

    python scripts/export.py run=outputs/latest                              model.onnx, in the run directory
    python scripts/export.py run=outputs/latest format=torch_export          model.pt2, for torch.export.load
    python scripts/export.py run=outputs/latest format=onnx out=model.onnx
    python scripts/export.py run=outputs/latest alignment=last threshold=spot    what live bars need, fitted anew

The file is kept only if it gives what the run gives. docs/export.md says what goes in and comes out.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from refold.cli import command
from refold.config.mistakes import nearest
from refold.errors import ConfigError
from refold.library.chosen import PARTS, with_chosen
from refold.library.run import load_run

if TYPE_CHECKING:
    from refold.library.run import Run

KEYS = ("run", "format", "out", "trust", "score", "threshold", "alignment")
CHOSEN = ("score.", "threshold.")
"""Begin the keys that may be chosen beside `KEYS`, such as threshold.risk."""


def describe_fit(run: "Run", anew: dict[str, str]) -> str:
    """Say what was fitted for settings that are not the run's own, and what of it the file does not do.

    Args:
        run: whose detector was fitted.
        anew: the settings.
    """
    assert run.detector is not None
    names = [type(part).__name__ for part in (run.detector.score_function, run.detector.threshold)]
    level = float(run.detector.threshold.level)
    learns = "; it stays at that, where LiveDetector goes on learning" if run.detector.threshold.learns else ""
    settings = " ".join(f"{key}={value}" for key, value in anew.items())
    return f"{names[0]} and {names[1]} ({settings}), level {level:.6g}{learns}"


def main() -> None:
    """Load the run, export it, and print a description of the file."""
    settings = command.read_arguments(sys.argv[1:], __doc__)
    for key in settings:
        if key not in KEYS and not key.startswith(CHOSEN):
            raise ConfigError(f"{key}: there is no such key{nearest(key, set(KEYS))}; there are {', '.join(KEYS)}")
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    from refold.export import writer

    name = settings.get("format", "onnx")
    if name not in writer.FORMATS:
        raise ConfigError(f"format is {name!r}; it must be one of {', '.join(writer.FORMATS)}")
    run = load_run(settings["run"], trust=command.trusted(settings))
    chosen = {key: value for key, value in settings.items() if key in PARTS or key.startswith(CHOSEN)}
    run, anew = with_chosen(run, chosen)
    out = Path(settings.get("out", run.directory / f"model{writer.FORMATS[name].suffix}"))
    difference = writer.export_run(run, out, name)
    longest = writer.longest_window(run)
    bars = "any number of bars" if longest is None else f"1 to {longest} bars, for which the linear path has weights"
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{out}, {out.stat().st_size / 1024:,.0f} KiB")
    console.print(f"takes features (B, T, {len(run.scaler.mean)}): B any number of windows, T {bars}")
    if "asset" in writer.input_names(run):
        console.print("takes asset (B,): the place of each window's asset in the notes' assets, -1 for any other")
    outputs = ", ".join(writer.output_names(run.autoencoder.horizon))
    if anew:
        console.print(f"fitted anew, to the run's own data: {describe_fit(run, anew)}")
    console.print(f"gives {outputs}; differs from PyTorch by at most {difference:.0e}")
