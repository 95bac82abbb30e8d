"""Encode bars with a finished run: the latent vector of each window.

    python scripts/encode.py run=outputs/latest data.path=NEW.csv    a file of bars such as the run was trained on
    python scripts/encode.py run=outputs/latest                      the bars that the run was trained on

Writes latents.parquet into out=FOLDER, by default in the run directory: latents/<name of the file>, or latents/own. A
row is a window: timestamp of its last bar, asset, z_0, z_1, ... The folder appears whole or not at all.
device=auto|cpu|cuda.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from rich.console import Console

from refold.cli import command
from refold.cli.command import CONF
from refold.config import build as config
from refold.config.change import choose_anew, taken_up
from refold.config.check import nearest
from refold.data.long.spool import TableSpool
from refold.data.sources.base import Source
from refold.errors import ConfigError, DataError
from refold.library.run import load_run
from refold.runs.directory import atomic_folder
from refold.runs.settings import give_all_anew
from refold.scoring.detector import Detector
from refold.scoring.latents import scan_latents

LATENTS = "latents.parquet"
OWN = ("run", "out", "device", "trust")


def main() -> None:
    """Load the run, read the bars, encode, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = command.settings(sys.argv[1:], __doc__)
    if "run" not in settings:
        raise ConfigError("run has no value; give one: run=outputs/latest")
    for key in settings:
        if key not in OWN and not key.startswith("data."):
            raise ConfigError(f"{key}: there is no such setting of encode.py{nearest(key, {*OWN, 'data.path'})}")
    run = load_run(settings["run"], trust=command.trusted(settings))
    others = {key: value for key, value in settings.items() if key not in OWN}
    cfg = choose_anew(run.config, give_all_anew(run.config, others), CONF)
    run.autoencoder.to(command.device(settings.get("device", "auto")))
    if run.detector is None:
        raise ConfigError(
            f"{run.directory} has no detector, which holds what bars must be like: train to the end first"
        )
    data = config.build_data(cfg)
    run.detector.recipe = data.recipe  # its checks may have been chosen anew
    name = Path(cfg.data.path).name.split(".")[0] if "data.path" in settings else "own"
    out = Path(settings.get("out", run.directory / "latents" / name))
    with atomic_folder(out, "out", [LATENTS]) as folder:
        count = encode_bars(run.detector, data.source, folder)
    size = run.autoencoder.code_size
    Console(soft_wrap=True, highlight=False).print(f"{count:,} windows, {size} numbers each: {out / LATENTS}")


def encode_bars(detector: Detector, source: Source, folder: Path) -> int:
    """Encode all bars of a source into a folder. Returns: windows."""
    with (
        taken_up(detector, source, folder) as bars,
        command.progress_bar(bars.rows, "bars encoded") as progress,
    ):
        return write_latents(scan_latents(detector, bars, progress=progress), folder)


def write_latents(frames: Iterable[pl.DataFrame], folder: Path) -> int:
    """Write latents.parquet. Returns: its rows."""
    spool = TableSpool(folder / LATENTS)
    for table in frames:
        spool.add(table)
    if not spool.rows:
        raise DataError("no window could be encoded: no unbroken run of bars is as long as a window")
    spool.table()
    return spool.rows
