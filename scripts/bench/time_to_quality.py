"""Measure the seconds that a training takes until it is good, for settings of the embedded stocks side by side.

    python scripts/bench time_to_quality                       # five seeds of each of SETTINGS, one thread
    python scripts/bench time_to_quality --seeds 2 --threads 2

Each row trains with the command `python train.py` and the row's overrides in a process of its own. Seconds count from
the start of that process: CPU seconds until val/r2 first reached each of QUALITIES at the end of an epoch, over the
seeds that reached it, and the whole command's, with the test and the summary.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from scripts.bench.memory import children_cpu

ROOT = Path(__file__).resolve().parents[2]
LONG = "trainer.max_epochs=40 data.batch_size=64 optimizer.lr=8e-3"
SETTINGS = {
    "the defaults": "",
    "the defaults in float32": "trainer.precision=32-true",
    "40 epochs, lr 8e-3, float32": f"{LONG} trainer.precision=32-true",
    "16 epochs": "trainer.max_epochs=16 data.batch_size=64 optimizer.lr=12e-3",
    "batches of 128, lr 16e-3": "data.batch_size=128 optimizer.lr=16e-3",
}
"""Name of a row -> overrides; an optimizer step has 64 windows and lr is 12e-3 unless a name says otherwise."""
QUALITIES = (0.465, 0.470)
"""Validation R2 that is waited for."""


class Training(NamedTuple):
    """The times and the results of one training.

    cpu, wall: seconds of the whole command. reached: quality -> CPU seconds until then. val, test: R2 of the run.
    """

    cpu: float
    wall: float
    reached: dict[float, float]
    val: float
    test: float


def report(seeds: int, threads: int) -> str:
    """Train all settings seed by seed, and return the table in Markdown.

    Args:
        seeds: trainings of each row, from seed 0.
        threads: of torch.
    """
    trained: dict[str, list[Training]] = {name: [] for name in SETTINGS}
    for seed in range(seeds):
        for name, overrides in SETTINGS.items():
            with tempfile.TemporaryDirectory() as scratch:
                trained[name].append(train([*overrides.split(), f"seed={seed}"], Path(scratch), threads))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    head = (
        f"torch {version('torch')}, {cores} cores, OMP_NUM_THREADS={threads}, {seeds} seeds, mean ± standard deviation."
    )
    return f"{head} Command: `python scripts/bench time_to_quality --threads {threads}`.\n\n{table(trained)}"


def table(trained: dict[str, list[Training]]) -> str:
    """Return a row for each setting: means over its seeds, and the standard deviation of what is not a time.

    Args:
        trained: name of a setting -> its trainings.
    """
    heads = [f"CPU s to {quality}" for quality in QUALITIES] + ["CPU s in all", "wall s", "val/r2", "test/r2"]
    lines = ["| " + " | ".join(["settings", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, runs in trained.items():
        cells = [waited([run.reached.get(quality) for run in runs]) for quality in QUALITIES]
        cells += [f"{statistics.mean(getattr(run, kind) for run in runs):.0f}" for kind in ("cpu", "wall")]
        cells += [spread([getattr(run, part) for run in runs]) for part in ("val", "test")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def waited(seconds: list[float | None]) -> str:
    """Return the mean of the seconds of those that arrived, and how many did not."""
    arrived = [one for one in seconds if one is not None]
    missing = "" if len(arrived) == len(seconds) else f" ({len(arrived)} of {len(seconds)} seeds)"
    return f"{statistics.mean(arrived):.0f}{missing}" if arrived else "-"


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def train(overrides: list[str], scratch: Path, threads: int) -> Training:
    """Run one command in a process of its own, and return what it took.

    Args:
        overrides: of the training.
        scratch: an existing folder for the run.
        threads: of torch.
    """
    run_dir, times = scratch / "run", scratch / "times.json"
    code = "import sys; from scripts.bench.time_to_quality import run_timed; sys.exit(run_timed())"
    command = [sys.executable, "-c", code, str(times), *overrides, "logger=csv", f"hydra.run.dir={run_dir}"]
    before, start = children_cpu(), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    wall, cpu = time.monotonic() - start, children_cpu() - before
    if done.returncode:
        raise RuntimeError(f"{' '.join(overrides)} ended with {done.returncode}: {done.stderr[-2000:]}")
    epochs = json.loads(times.read_text())
    reached = {
        quality: min(seconds for seconds, found in epochs if found >= quality)
        for quality in QUALITIES
        if any(found >= quality for _, found in epochs)
    }
    metrics = json.loads((run_dir / "result.json").read_text())["metrics"]
    return Training(cpu, wall, reached, metrics["val/r2"], metrics["test/r2"])


def run_timed() -> int:
    """Train with the command line after the first argument, a file for (CPU seconds, val/r2) of each validation."""
    from refold.cli.main import run_subcommand
    from refold.training.module import AutoencoderModule

    times, sys.argv = Path(sys.argv[1]), ["train.py", *sys.argv[2:]]
    epochs, ends = [], AutoencoderModule.on_validation_epoch_end

    def timed(self: AutoencoderModule) -> None:
        ends(self)
        epochs.append((time.process_time(), float(self.trainer.callback_metrics["val/r2"])))

    AutoencoderModule.on_validation_epoch_end = timed
    status = run_subcommand("train")
    times.write_text(json.dumps(epochs))
    return status
