"""Measure how long a comparison of many runs takes from the command line, on plain files as training leaves them.

    python scripts/bench/compare.py 500

Each run has a resolved.yaml of the default size, 60 epochs in metrics.csv, a result.json and its reconstructions.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import yaml
from hydra import compose, initialize_config_dir

from refold.config.build import to_plain
from refold.runs.directory import METRICS, RESOLVED, write_result
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 60, 100


def write_runs(folder: Path, count: int) -> None:
    """Write run directories that differ in decoder, learning rate, size and seed."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = to_plain(compose("train"))
    draw = np.random.default_rng(0)
    windows = FixedWindows(
        truth=draw.standard_normal((4, 32, 5)).astype(np.float32),
        made=draw.standard_normal((4, 32, 5)).astype(np.float32),
        present=np.ones((4, 32), dtype=bool),
        features=np.array([f"feature_{n}" for n in range(5)]),
        assets=np.array(["A"] * 4),
        moments=np.datetime64("2020-01-01") + np.arange(4 * 32).reshape(4, 32),
    )
    for number in range(count):
        decoder, lr = draw.choice(["repeat", "autoregressive", "conditional"]), float(draw.choice([1e-3, 3e-3, 1e-2]))
        size, error = int(draw.choice([32, 64, 128])), float(draw.uniform(0.2, 0.6))
        directory = folder / f"{number}_{decoder}-one-s{number % 3}"
        (directory / "figures").mkdir(parents=True)
        settings["optimizer"]["lr"], settings["layers"]["hidden_size"], settings["seed"] = lr, size, number % 3
        choices, overrides = {"decoder": str(decoder)}, [f"optimizer.lr={lr}", f"layers.hidden_size={size}"]
        run = {"id": directory.name, "group": folder.name, "choices": choices, "overrides": overrides}
        (directory / RESOLVED).write_text(yaml.safe_dump({**settings, "run": run}))
        (directory / METRICS).write_text(_curves(error, draw))
        windows.save(directory / FIXED_WINDOWS)
        metrics = {f"{part}/{name}": error for part in ("val", "test") for name in ("reconstruction_mse", "r2")}
        write_result(directory, {"metrics": metrics, "baselines": {}, "data_fingerprint": "f", "windows_per_s": 7e3})


def _curves(error: float, draw: np.random.Generator) -> str:
    lines = ["epoch,step,train/loss,train/lr,train/grad_norm,val/reconstruction_mse,val/r2,train/epoch_loss"]
    for epoch in range(EPOCHS):
        for step in range(epoch * STEPS, (epoch + 1) * STEPS, 20):
            lines.append(f"{epoch},{step},{draw.uniform():.16f},{1e-3:.16f},{draw.uniform():.16f},,,")
        last, value = (epoch + 1) * STEPS - 1, error * (1 + 1 / (1 + epoch))
        lines += [f"{epoch},{last},,,,{value:.16f},{1 - value:.16f},", f"{epoch},{last},,,,,,{value:.16f}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the median of five runs of the command, without and with its page."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sweep"
        write_runs(folder, count)
        for flags in ([], ["--html", f"{temporary}/page.html", "--csv", f"{temporary}/table.csv"]):
            seconds, computed = [], []
            for _ in range(5):
                started, before = time.perf_counter(), os.times().children_user
                command = [sys.executable, ROOT / "scripts/compare.py", folder, *flags]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - started)
                computed.append(os.times().children_user - before)
            what = " ".join(flags[::2]) or "table alone"
            print(f"{count} runs, {what}: median of five {median(seconds):.1f} s, of the core {median(computed):.1f} s")


if __name__ == "__main__":
    main()
