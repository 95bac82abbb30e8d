"""Time verdicts on live bars against the model's own pass, and measure what is kept of the past.

    python scripts/bench live push            one bar of one asset at a time: median and 99 % of the CPU time
    python scripts/bench live many            a bar of each of 3,000 assets at once
    python scripts/bench live memory          resident memory over a million bars of 3,000 assets
    python scripts/bench live start           from a new process to the first verdict, with the state of 3,000 assets
    python scripts/bench live watch           bars per second of `refold watch` from a pipe

Features, checks, score, the level of SPOT and the verdict are included. Times are CPU time of one thread. Letters: B
windows, T bars, F features, H hidden size.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from refold.data.bars.table import Table
from refold.live.live_detector import LiveDetector, Origin
from refold.scoring.thresholds import StreamingPeaks
from scripts.bench.memory import MIB, children_cpu, resident
from scripts.bench.score import FEATURES, F, autoencoder, detector_of

T, H, ASSETS = 32, 64, 3_000
PUSHES, REPEATS = 3_000, 9
WATCHED = 20_000


TABLE = Table(
    kind="prices", shape="auto", columns={}, timestamp_format=None, price_scale=1.0, adjusted=False, assets=None,
    start=None, end=None, values=None,
)  # fmt: skip


def two_assets() -> pl.DataFrame:
    """Daily bars of two assets for 1,200 days."""
    following = feed(2)
    return pl.DataFrame([bar for _ in range(1_200) for bar in following()]).sort("asset", "timestamp")


def live_detector() -> LiveDetector:
    """A live detector with random weights, fitted to random bars; daily bars from Monday to Sunday."""
    bars = two_assets()
    judge = detector_of(autoencoder(H), T)
    judge.alignment = "last"
    judge.threshold = StreamingPeaks(risk=1e-3, start=0.98, per_asset=False)
    days = bars["timestamp"].unique().sort()
    train, val = (bars.filter(part) for part in (pl.col("timestamp") < days[700], pl.col("timestamp") >= days[700]))
    timetables = judge.recipe.checks.timetables_of(bars.lazy(), 2)
    judge = judge.checking(judge.recipe.checks.knowing(timetables))
    judge.fit(train, val)
    return LiveDetector(judge, TABLE, lambda frame: frame, Origin("bench", {}), now=lambda: 1e11)


def feed(assets: int, seed: int = 0) -> Callable[[], list[dict[str, Any]]]:
    """A function that returns the next day's bar of each asset."""
    draw = np.random.default_rng(seed)
    close, names, day = np.full(assets, 50.0), [f"A{n:04}" for n in range(assets)], date(2020, 1, 1)

    def following() -> list[dict[str, Any]]:
        nonlocal close, day
        open_ = close * np.exp(draw.normal(0, 0.01, assets))
        close = open_ * np.exp(draw.normal(0, 0.02, assets))
        high, low = np.maximum(open_, close) * 1.01, np.minimum(open_, close) / 1.01
        volume = np.round(1e6 * np.exp(draw.normal(0, 0.3, assets)))
        day += timedelta(days=1)
        rows = zip(names, *(part.tolist() for part in (open_, high, low, close, volume)), strict=True)
        return [
            {"timestamp": day, "asset": name, "open": o, "high": h, "low": least, "close": c, "volume": v}
            for name, o, h, least, c, v in rows
        ]

    return following


def own_pass(live: LiveDetector, windows: int) -> float:
    """CPU seconds of the model alone over so many windows, in the batches that a detector takes."""
    model, batch = live.detector.autoencoder, live.detector.batch
    values = torch.randn(windows, T, F, generator=torch.Generator().manual_seed(0))
    began = time.process_time()
    with torch.inference_mode():
        for part in values.split(batch):
            model.decode(model.encode(part), T)
    return time.process_time() - began


def bench_push() -> list[str]:
    live, following = live_detector(), feed(1)
    for _ in range(300):
        live.push(following()[0])
    own, taken = [], []
    for _ in range(PUSHES):
        (bar,) = following()
        began = time.process_time()
        live.push(bar)
        taken.append(time.process_time() - began)
        own.append(own_pass(live, 1))
    ms = [1e3 * float(np.quantile(seen, share)) for seen in (taken, own) for share in (0.5, 0.99)]
    return [
        f"{PUSHES:,} bars of one asset, T {T}, F {F}, H {H}, {live.counts['flagged']} of them flagged.",
        "",
        "| | median, ms | 99 %, ms |",
        "|---|---|---|",
        f"| `push` | {ms[0]:.2f} | {ms[1]:.2f} |",
        f"| the model's own pass | {ms[2]:.2f} | {ms[3]:.2f} |",
    ]


def bench_many() -> list[str]:
    live, following = live_detector(), feed(ASSETS)
    for _ in range(T + 25):
        live.push_many(following())
    taken, own = [], []
    for _ in range(REPEATS):
        bars = following()
        gc.collect()
        began = time.process_time()
        live.push_many(bars)
        taken.append(time.process_time() - began)
        own.append(own_pass(live, ASSETS))
    ratio = statistics.median(one / other for one, other in zip(taken, own, strict=True))
    return [
        f"A bar of each of {ASSETS:,} assets in one `push_many`, T {T}, F {F}, H {H}: median "
        f"{statistics.median(taken):.3f} s of CPU time, {ratio:.2f} x the model's own pass over as many windows "
        f"({statistics.median(own):.3f} s).",
    ]


def bench_memory() -> list[str]:
    live, following = live_detector(), feed(ASSETS)
    rows, before = ["| bars | resident, MiB |", "|---|---|"], resident()
    marks = [ASSETS, 250_000, 500_000, 750_000, 1_000_000]
    bars = 0
    while marks:
        bars += len(live.push_many(following()))
        if bars >= marks[0]:
            rows.append(f"| {bars:,} | {resident():,.0f} |")
            print(rows[-1], file=sys.stderr, flush=True)
            marks.pop(0)
    held = sum(array.nbytes for array in live.history.arrays.values()) / MIB
    return [
        f"{ASSETS:,} assets, T {T}, F {F}: {live.history.kept} bars of each are kept, {held:,.0f} MiB; imports and "
        f"model took {before:,.0f} MiB before the first bar.",
        "",
        *rows,
    ]


START = """
import json, sys, time
began = time.process_time(), time.perf_counter()
import refold
run = refold.load_run(sys.argv[1])
live = refold.LiveDetector.load(sys.argv[2], run)
live.push(json.loads(sys.argv[3]))
print(time.process_time() - began[0], time.perf_counter() - began[1])
"""


def trained(where: Path) -> Path:
    """The directory of a new run on two assets, whose own alignment is last."""
    two_assets().write_parquet(where / "train.parquet")
    settings = ["data=parquet", f"data.path={where / 'train.parquet'}", f"data.features=[{','.join(FEATURES)}]"]
    settings += ["logger=csv", "trainer.accelerator=cpu", "trainer.max_steps=20", f"hydra.run.dir={where / 'run'}"]
    settings += ["alignment=last", "threshold=spot", "threshold.start=0.9", f"layers.hidden_size={H}"]
    subprocess.run([sys.executable, "train.py", *settings], check=True, capture_output=True)
    return where / "run"


def bench_start() -> list[str]:
    import refold

    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        run = trained(where)
        live, following = refold.load_run(run).live(), feed(ASSETS)
        for _ in range(T):
            live.push_many(following())
        live.save(where / "live.state")
        size = (where / "live.state").stat().st_size / MIB
        bar = in_json(following()[0])
        command = [sys.executable, "-c", START, str(run), str(where / "live.state"), bar]
        seen = [
            list(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
            for _ in range(5)
        ]
    cpu, wall = (statistics.median(part) for part in zip(*seen, strict=True))
    return [
        f"`import refold`, `load_run`, `LiveDetector.load` of {ASSETS:,} assets ({size:,.0f} MiB), the first `push`: "
        f"{cpu:.1f} s of CPU time, {wall:.1f} s on the clock.",
    ]


def in_json(bar: dict[str, Any]) -> str:
    """A bar as a line of a feed."""
    return json.dumps({**bar, "timestamp": bar["timestamp"].isoformat()})


def bench_watch() -> list[str]:
    following = feed(10)
    lines = [in_json(bar) + "\n" for _ in range(WATCHED // 10) for bar in following()]

    def cpu_seconds(run: Path, count: int) -> float:
        before = children_cpu()
        command, text = [sys.executable, "-m", "refold", "watch", f"run={run}"], "".join(lines[:count])
        told = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
        used = children_cpu() - before
        if told.count("\n") != count:
            sys.exit(f"{told.count(chr(10))} verdicts on {count} bars")
        return used

    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder))
        starts, wholes = zip(*((cpu_seconds(run, 10), cpu_seconds(run, WATCHED)) for _ in range(3)), strict=True)
    start, whole = statistics.median(starts), statistics.median(wholes)
    return [
        f"`refold watch`, {WATCHED:,} bars of 10 assets as JSON lines from a pipe: {WATCHED / (whole - start):,.0f} "
        f"bars per second of CPU time, and {start:.1f} s to start; {WATCHED / whole:,.0f} bars per second with it.",
    ]


BENCHES: dict[str, Callable[[], list[str]]] = {
    "push": bench_push,
    "many": bench_many,
    "memory": bench_memory,
    "start": bench_start,
    "watch": bench_watch,
}


def report(names: list[str]) -> str:
    """The named benches, or all, as Markdown."""
    if unknown := set(names) - set(BENCHES):
        sys.exit(f"there is no bench {', '.join(sorted(unknown))}; it must be one of {', '.join(BENCHES)}")
    torch.set_num_threads(1)
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    ]
    for name in names or BENCHES:
        lines += ["", f"### {name}", "", *BENCHES[name]()]
    return "\n".join(lines)
