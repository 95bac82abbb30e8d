"""Encode bars with a finished run: the latent vector of each window.

    python scripts/encode.py run=outputs/latest data.path=NEW.csv    a file of bars such as the run was trained on
    python scripts/encode.py run=outputs/latest                      the bars that the run was trained on

Writes latents.parquet into out=FOLDER, by default in the run directory: latents/<name of the file>, or latents/own. A
row is a window: timestamp of its last bar, asset, z_0, z_1, ... The folder appears whole or not at all.
device=auto|cpu|cuda.

on=ray shares the assets out among the workers of Ray, on this machine or on the cluster that RAY_ADDRESS names;
workers=N limits them. latents.parquet is then a folder of files.
"""

import logging
import sys
from pathlib import Path

from rich.console import Console

from refold.cli import command
from refold.config.mistakes import nearest
from refold.errors import ConfigError
from refold.library.judge import LATENTS, Judge
from refold.library.on_ray import read_choice
from refold.library.run import load_run
from refold.runs.directory import atomic_folder

OWN = ("run", "out", "device", "on", "workers", "trust")


def main() -> None:
    """Load the run, encode the bars, and write the codes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = command.read_arguments(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    for key in settings:
        if key not in OWN and not key.startswith("data."):
            raise ConfigError(f"{key}: there is no such setting of encode.py{nearest(key, {*OWN, 'data.path'})}")
    on_ray = read_choice(settings)
    run = load_run(settings["run"], trust=command.trusted(settings))
    others = {key: value for key, value in settings.items() if key not in OWN}
    judge = Judge(run, settings=others, progress=command.progress_bar, on_ray=on_ray)
    run.autoencoder.to(command.device(settings.get("device", "cpu" if on_ray else "auto")))
    if run.detector is None:
        raise ConfigError(
            f"{run.directory} has no detector, which holds what bars must be like: train to the end first"
        )
    out = Path(settings.get("out", run.directory / "latents" / judge.name))
    with atomic_folder(out, "out", [LATENTS]) as judge.folder:
        windows, refused = judge.encode()
        windows.table()
    size = run.autoencoder.code_size
    console = Console(soft_wrap=True, highlight=False)
    for asset, why in refused.items():
        console.print(f"{asset} has no codes: {why}")
    console.print(f"{windows.rows:,} windows, {size} numbers each: {out / LATENTS}")
