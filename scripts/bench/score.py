"""Time scoring at stride 1 against a per-step loop, and a million bars from a file to their scores.

    python scripts/bench score speed              windows per second, ours and a loop's with batches of 64
    python scripts/bench score batches            windows per second of CPU time, by windows in a batch
    python scripts/bench score million            seconds and peak memory of scripts/score.py, by number of bars
    python scripts/bench score ray                five million bars: one process beside two workers of Ray
    python scripts/bench score --threads 2        all, on two threads

The contestants of `speed` run through the same detector: gather, measure, align, score; how the model is run differs,
and the batch. Letters: B windows, T bars, F features, H hidden size. Memory is the resident set of a process, in MiB.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from refold.data import Scaler, Series
from refold.data.bars.checks import Checks
from refold.data.bars.findings import CHECKS
from refold.data.recipe import Recipe
from refold.data.windows.split import ByFraction
from refold.models import Autoencoder, AutoregressiveDecoder, LatentBridge, LSTMEncoder
from refold.scoring.detector import Detector
from refold.scoring.scores import SquaredError
from refold.scoring.thresholds import Quantile
from scripts.bench.memory import peak, running_cpu
from tests import naive

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ("overnight_return", "intraday_return", "parkinson_range", "trailing_volatility_20", "relative_volume_20")
F, REPEATS, LOOP_BATCH = len(FEATURES), 7, 64
BATCHES = (64, 128, 256, 512, 1024)


class Stepwise(nn.Module):
    """The same model, one bar at a time: an nn.LSTM call of length 1 per bar, in the encoder and in the decoder.

    Args: model: whose weights it takes. encoder_too: False reads the window in one fused call.
    """

    def __init__(self, model: Autoencoder, encoder_too: bool) -> None:
        super().__init__()
        self.model, self.encoder_too = model, encoder_too

    def encode(self, windows: Tensor, mask: None) -> Tensor:
        if not self.encoder_too:
            return self.model.encode(windows)
        encoder = self.model.encoder
        assert isinstance(encoder, LSTMEncoder)
        _, state = encoder.lstm(windows[:, :1])
        for t in range(1, windows.shape[1]):
            _, state = encoder.lstm(windows[:, t : t + 1], state)
        return self.model.bridge.encode(state)

    def decode(self, code: Tensor, window_size: int, mask: None) -> Tensor:
        conditioning, state = self.model.bridge.decode(code)
        decoded = naive.decode_loop(self.model.decoder, conditioning, state, window_size)
        return decoded.flip(1)  # the decoder is reversed


def autoencoder(H: int) -> Autoencoder:
    """One layer, Z 16, as the default run has."""
    torch.manual_seed(0)
    sizes = {"hidden_size": H, "num_layers": 1, "dropout": 0.0}
    bridge = LatentBridge(
        latent_dim=16,
        dropout=0.0,
        encoder_num_layers=1,
        encoder_state_size=H,
        decoder_num_layers=1,
        decoder_hidden_size=H,
        linear_path="none",
        normalize_windows=False,
    )
    decoder = AutoregressiveDecoder(output_size=F, conditioning_size=16, reverse=True, start_token="zeros", **sizes)
    return Autoencoder(LSTMEncoder(input_size=F, bidirectional=False, **sizes), bridge, decoder).eval()


def detector_of(model: Any, T: int) -> Detector:
    policies = {name: "warn" if "warn" in check.policies else "error" for name, check in CHECKS.items()}
    recipe = Recipe(
        FEATURES, "per_asset", 1.0, T, 0, ByFraction(train_fraction=0.7, val_fraction=0.15, embargo=0), 0,
        Checks(
            policies=policies, scoring_policies={}, interval=None, calendar="union", stale_bars=5, split_tolerance=0.03,
            kind="prices",
        ),
        "keep", "pooled", 2,
    )  # fmt: skip
    return Detector(
        autoencoder=model, recipe=recipe, scaler=Scaler(torch.zeros(F), torch.ones(F)), columns=list(FEATURES),
        score=SquaredError(), threshold=Quantile(share=0.99, per_asset=False), alignment="mean",
    )  # fmt: skip


def bench_speed() -> list[str]:
    """Interleaved repeats; a ratio is the median of the ratios within a repeat."""
    rows = [
        "| H, T | decoder loops, windows/s | both loop, windows/s | ours, windows/s | ours / decoder | ours / both |",
        "|---|---|---|---|---|---|",
    ]
    generator = torch.Generator().manual_seed(0)
    for H, T in ((64, 32), (64, 64), (32, 32), (16, 32)):
        model, bars = autoencoder(H), 8_000 + T - 1
        values = torch.randn(bars, F, generator=generator)
        series = Series(values, None, np.arange(bars), pl.Datetime("us"), None, ("A",), np.array([0]))
        contestants = {
            "decoder": detector_of(Stepwise(model, False), T),
            "both": detector_of(Stepwise(model, True), T),
            "ours": detector_of(model, T),
        }
        for name in ("decoder", "both"):  # torch shares each of their steps among its threads
            contestants[name].batch, contestants[name].workers = LOOP_BATCH, 1
        results, times = {}, {name: [] for name in contestants}
        for _ in range(REPEATS):
            for name, judge in contestants.items():
                started = time.perf_counter()
                results[name] = judge.score_series(series, np.array([[0, bars]])).score
                times[name].append((time.perf_counter() - started) / (bars - T + 1))
        assert all(np.allclose(results[name], results["ours"], rtol=1e-3) for name in contestants)
        rates = {name: 1 / statistics.median(seen) for name, seen in times.items()}
        ratios = [
            statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True))
            for name in ("decoder", "both")
        ]
        rows.append(
            f"| {H}, {T} | {rates['decoder']:,.0f} | {rates['both']:,.0f} | {rates['ours']:,.0f} | {ratios[0]:.1f} | "
            f"{ratios[1]:.1f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return [
        f"Medians of {REPEATS} interleaved repeats over 8,000 windows; the loops take {LOOP_BATCH} at a time.",
        "",
        *rows,
    ]


def bench_batches() -> list[str]:
    """Windows per second of CPU time, by windows in a batch: other work on the machine changes it little."""
    rows = ["| T | " + " | ".join(f"B {batch}" for batch in BATCHES) + " |", "|---" * (len(BATCHES) + 1) + "|"]
    model = autoencoder(64)
    with torch.inference_mode():
        for T in (32, 64, 128):
            windows = {batch: torch.randn(batch, T, F) for batch in BATCHES}
            rates = [batch / cpu_seconds(partial(model, windows[batch])) for batch in BATCHES]
            rows.append(f"| {T} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |")
        B, H, T = 512, 64, 32
        state, weights = torch.randn(B, H), torch.randn(H, 4 * H)
        product = cpu_seconds(partial(torch.mm, state, weights))
        step = cpu_seconds(partial(model.encoder, torch.randn(B, T, F), None)) / T
    return [
        f"Windows per second of CPU time, forward, H 64. A step of {B} windows takes {step * 1e6:.0f} us in the",
        f"encoder, of which the product of state and weights alone takes {product * 1e6:.0f} us "
        f"({2 * B * H * 4 * H / product / 1e9:.0f} GFLOP/s).",
        "",
        *rows,
    ]


def cpu_seconds(call: Callable[[], object]) -> float:
    """Least CPU time of a call, over repeats."""
    call()
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(8):
            call()
        best = min(best, (time.process_time() - started) / 8)
    return best


def write_bars(path: Path, bars: int, assets: int) -> None:
    """Minute bars of random walks, asset after asset, as Parquet."""
    generator = np.random.default_rng(0)
    count = bars // assets
    first = datetime(2020, 1, 1)
    stamps = pl.datetime_range(first, first + timedelta(minutes=count - 1), "1m", eager=True)
    frames = []
    for asset in range(assets):
        close = 100 * np.exp(np.cumsum(generator.normal(0, 1e-3, count)))
        open_ = close * np.exp(generator.normal(0, 5e-4, count))
        high = np.maximum(open_, close) * np.exp(generator.exponential(5e-4, count))
        low = np.minimum(open_, close) * np.exp(-generator.exponential(5e-4, count))
        volume = np.round(np.exp(generator.normal(8, 1, count))) + 1
        prices = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
        frames.append(pl.DataFrame({"timestamp": stamps, "symbol": [f"A{asset:02}"] * count, **prices}))
    pl.concat(frames).write_parquet(path)


def score_file(run: str, path: str, out: str, threads: int) -> dict[str, float]:
    """In a fresh process: what `scripts/score.py` takes from start to end, imports apart."""
    torch.set_num_threads(threads)
    from refold.cli.score import main

    before = peak()
    sys.argv = ["score.py", f"run={run}", f"data.path={path}", f"out={out}", "device=cpu"]
    started, used = time.perf_counter(), time.process_time()
    main()
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"seconds": seconds, "cpu": cpu, "imports": before, "peak": peak()}


def bench_million() -> list[str]:
    rows = ["| bars | seconds | bars/s | CPU seconds | peak, MiB | of it imports |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        write_bars(where / "train.parquet", 20_000, 5)
        settings = ["data=parquet", f"data.path={where / 'train.parquet'}", f"data.features=[{','.join(FEATURES)}]"]
        settings += ["logger=csv", "trainer.accelerator=cpu", "trainer.max_steps=20", f"hydra.run.dir={where / 'run'}"]
        run_quietly([sys.executable, str(ROOT / "train.py"), *settings])
        for bars in (250_000, 500_000, 1_000_000):
            write_bars(where / "bars.parquet", bars, 10)
            arguments = [str(where / "run"), str(where / "bars.parquet"), str(where / "out"), torch.get_num_threads()]
            found = json.loads(
                run_quietly([sys.executable, __file__, json.dumps(["score_file", *arguments])]).splitlines()[-1]
            )
            rows.append(
                f"| {bars:,} | {found['seconds']:.1f} | {bars / found['seconds']:,.0f} | {found['cpu']:.1f} | "
                f"{found['peak']:,.0f} | "
                f"{found['imports']:,.0f} |"
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return [
        "`scripts/score.py` on a Parquet file of 10 assets: reading, checks, features, scores, events, report.",
        "",
        *rows,
    ]


def score_phases(run: str, path: str, out: str, *others: str) -> dict[str, float]:
    """In a fresh process: wall and CPU seconds of this process until the table is read, scored and written up.

    Returns: also the CPU seconds of the processes below it while the table is scored.
    """
    torch.set_num_threads(1)
    from refold.cli import score

    marks: list[tuple[float, float, float]] = []

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time(), running_cpu(os.getpid())))

    @contextmanager
    def progress(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
        left = [total or 0]

        def advance(rows: int) -> None:
            left[0] -= rows
            if left[0] == 0:
                mark()

        if what == "bars read":
            mark()
        yield advance
        if what == "bars read":
            mark()

    score.command.progress_bar = progress
    sys.argv = ["score.py", f"run={run}", f"data.path={path}", f"out={out}", "device=cpu", *others]
    mark()
    score.main()
    mark()
    found: dict[str, float] = {"children": marks[3][2] - marks[2][2], "peak": peak()}
    for name, (before, after) in zip(("start", "read", "scored", "written"), pairwise(marks), strict=True):
        found |= {f"{name}": after[0] - before[0], f"{name} cpu": after[1] - before[1]}
    return found


def bench_ray(bars: int = 5_000_000, assets: int = 50) -> list[str]:
    names = ("start", "read", "scored", "written")
    rows = [
        f"| | {' | '.join(names)}, s | CPU s of the command by these | of its workers | peak, MiB |",
        "|---" * 8 + "|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        write_bars(where / "train.parquet", 20_000, 5)
        settings = ["data=parquet", f"data.path={where / 'train.parquet'}", f"data.features=[{','.join(FEATURES)}]"]
        settings += ["logger=csv", "trainer.accelerator=cpu", "trainer.max_steps=20", f"hydra.run.dir={where / 'run'}"]
        settings += ["layers.hidden_size=16", "layers.latent_dim=4"]
        run_quietly([sys.executable, str(ROOT / "train.py"), *settings])
        write_bars(where / "bars.parquet", bars, assets)
        for name, others in (("one process", []), ("on=ray workers=2", ["on=ray", "workers=2"])):
            arguments = ["score_phases", str(where / "run"), str(where / "bars.parquet"), str(where / name), *others]
            found = json.loads(run_quietly([sys.executable, __file__, json.dumps(arguments)]).splitlines()[-1])
            seconds, used = ([found[f"{phase}{kind}"] for phase in names] for kind in ("", " cpu"))
            rows.append(
                f"| {name} | {' | '.join(f'{each:.1f}' for each in seconds)} | "
                f"{', '.join(f'{each:.1f}' for each in used)} | {found['children']:.1f} | {found['peak']:,.0f} |"
            )
            print(rows[-1], file=sys.stderr, flush=True)
        sizes = {path.name: path.stat().st_size / bars for path in (where / "one process").iterdir()}
        one, two = (pl.read_parquet(where / name / "scores.parquet") for name in ("one process", "on=ray workers=2"))
        same = "equal row by row, digit by digit" if one.equals(two) else "NOT equal"
        read = (where / "bars.parquet").stat().st_size / bars
    return [
        f"{bars:,} minute bars of {assets} assets, windows of 32, H 16, each process on one thread: {same}.",
        f"Bytes per bar: {read:.0f} of the table, {sizes['scores.parquet']:.0f} of scores.",
        "",
        *rows,
    ]


def run_quietly(command: list[str]) -> str:
    """Peak memory is of a whole process: each measurement gets its own. Returns: what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


BENCHES: dict[str, Callable[[], list[str]]] = {
    "speed": bench_speed,
    "batches": bench_batches,
    "million": bench_million,
    "ray": bench_ray,
}


def report(names: list[str], threads: int) -> str:
    """The named benches, or all, as Markdown."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        sys.exit(f"there is no bench {', '.join(sorted(unknown))}; it must be one of {', '.join(BENCHES)}")
    torch.set_num_threads(threads)
    machine = platform.processor() or platform.machine()
    lines = [
        f"{machine}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, polars {pl.__version__}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    ]
    for name in names or BENCHES:
        lines += ["", f"### {name}", "", *BENCHES[name]()]
    return "\n".join(lines)


if __name__ == "__main__":
    # a measurement in a process of its own: see run_quietly
    function, *rest = json.loads(sys.argv[1])
    print(json.dumps(globals()[function](*rest)))
