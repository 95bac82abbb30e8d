"""Write a finished run as one file that needs no refold: scaler, autoencoder and score in one graph.

    python scripts/export.py run=outputs/latest                              model.onnx, in the run directory
    python scripts/export.py run=outputs/latest format=torch_export          model.pt2, for torch.export.load
    python scripts/export.py run=outputs/latest format=onnx out=model.onnx

The file is kept only if it gives what the run gives. docs/export.md says what goes in and comes out.
"""

import sys
from pathlib import Path

from rich.console import Console

from refold.cli import command
from refold.config.mistakes import nearest
from refold.errors import ConfigError
from refold.library.run import load_run

KEYS = ("run", "format", "out", "trust")


def main() -> None:
    """Load the run, export it, and print a description of the file."""
    settings = command.read_arguments(sys.argv[1:], __doc__)
    for key in settings:
        if key not in KEYS:
            raise ConfigError(f"{key}: there is no such key{nearest(key, set(KEYS))}; there are {', '.join(KEYS)}")
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    from refold.export import writer

    name = settings.get("format", "onnx")
    if name not in writer.FORMATS:
        raise ConfigError(f"format is {name!r}; it must be one of {', '.join(writer.FORMATS)}")
    run = load_run(settings["run"], trust=command.trusted(settings))
    out = Path(settings.get("out", run.directory / f"model{writer.FORMATS[name].suffix}"))
    difference = writer.export_run(run, out, name)
    longest = writer.longest_window(run)
    bars = "any number of bars" if longest is None else f"1 to {longest} bars, for which the linear path has weights"
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{out}, {out.stat().st_size / 1024:,.0f} KiB")
    console.print(f"takes features (B, T, {len(run.scaler.mean)}): B any number of windows, T {bars}")
    outputs = ", ".join(writer.output_names(run.autoencoder.horizon))
    console.print(f"gives {outputs}; differs from PyTorch by at most {difference:.0e}")
