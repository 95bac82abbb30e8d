"""Time the data layer against the usual dataset, and measure the memory that iterating takes.

    python scripts/bench data gather     windows per second against a per-item dataset with default collation
    python scripts/bench data memory     peak memory of one epoch against the bytes of the series, in fresh processes
    python scripts/bench data build      tables of 10 and 40 million rows, from nothing to the first batch
    python scripts/bench data mapped     100 million bars mapped from disk: seconds and memory to the first steps
    python scripts/bench data check      `refold check` on a million rows, from Parquet and CSV, imports included
    python scripts/bench data            all of them, as the tables of docs/benchmarks.md

Letters: B windows, T bars, F features. Times are medians; memory is the resident set of a process, in MiB.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # its measurements run it as a script

from refold.data import Scaler, Series, WindowDataModule, WindowLoader, Windows
from refold.data.bars.checks import Checks
from refold.data.bars.expected import Timetables
from refold.data.bars.findings import CHECKS, FINDINGS
from refold.data.bars.table import Table
from refold.data.long import cache
from refold.data.pipeline import Prepared
from refold.data.sources import Csv, Parquet
from refold.data.windows.split import ByFraction
from scripts.bench.memory import anonymous, children_cpu, peak, resident

F, B = 5, 256
REPEATS = 7
MIB = 1 << 20


class PerItem(Dataset):
    """The dataset of a tutorial: one window per item, sliced from the series."""

    def __init__(self, values: torch.Tensor, window_size: int) -> None:
        self.values = values
        self.window_size = window_size

    def __len__(self) -> int:
        return len(self.values) - self.window_size + 1

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.values[number : number + self.window_size]


def series_of(values: torch.Tensor) -> Series:
    """One asset of random bars, a minute apart."""
    times = np.arange(len(values), dtype=np.int64) * 60_000_000
    return Series(values, None, times, pl.Datetime("us"), None, ("A",), np.array([0]))


def windows_of(values: torch.Tensor, window_size: int) -> Windows:
    return Windows(series_of(values), np.array([[0, len(values)]]), window_size=window_size, stride=1)


def windows_per_second(loader: WindowLoader | DataLoader, batches: int) -> float:
    """Of the first batches of an epoch, its shuffled order included."""
    started = time.perf_counter()
    count = sum(1 for _ in zip(range(batches), loader, strict=False))
    return count * B / (time.perf_counter() - started)


def bench_gather() -> list[str]:
    """Interleaved repeats, a new epoch each: the same machine noise falls on both."""
    bars, batches = 1_000_000, 1000
    rows = ["| T | per-item dataset, windows/s | one gather, windows/s | ratio | its range |", "|---|---|---|---|---|"]
    values = torch.randn(bars, F, generator=torch.Generator().manual_seed(0))
    for T in (16, 64, 128, 512):
        loader = WindowLoader(windows_of(values, T), batch_size=B, shuffle=True, seed=0)
        usual = DataLoader(PerItem(values, T), batch_size=B, shuffle=True)
        ours, theirs = [], []
        for epoch in range(REPEATS):
            loader.set_epoch(epoch)
            ours.append(windows_per_second(loader, batches))
            theirs.append(windows_per_second(usual, batches))
        ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        one, other = statistics.median(ours), statistics.median(theirs)
        spread = f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
        rows.append(f"| {T} | {other:,.0f} | {one:,.0f} | {statistics.median(ratios):.1f} | {spread} |")
    return [
        f"The first {batches} batches of {B} windows of {F} features of an epoch of {bars:,} bars, shuffled, the order "
        f"included; medians of {REPEATS} interleaved repeats.",
        "",
        *rows,
    ]


def epoch_memory(T: int, bars: int) -> dict[str, float]:
    """In a fresh process: what one epoch adds to the resident set, which already holds the series."""
    values = torch.empty(bars, F).normal_(generator=torch.Generator().manual_seed(0))
    loader = WindowLoader(windows_of(values, T), batch_size=B, shuffle=True, seed=0)
    before = resident()
    for number, batch in enumerate(loader):
        if number % 4 == 0:  # each batch touches random windows: a quarter of them touches every page of the series
            batch.windows.sum()
    return {"series": loader.windows.series.nbytes / MIB, "added": peak() - before}


def bench_memory() -> list[str]:
    bars = 4_000_000
    rows = ["| T | series, MiB | added by one epoch, MiB | peak / series |", "|---|---|---|---|"]
    for T in (16, 64, 512):
        found = in_fresh_process("epoch_memory", T, bars)
        ratio = 1 + found["added"] / found["series"]
        rows.append(f"| {T} | {found['series']:.0f} | {found['added']:.0f} | {ratio:.2f} |")
    return [f"{bars:,} bars, {F} features, stride 1.", "", *rows]


FEATURES = ["log_return", "parkinson_range", "intraday_return", "trailing_volatility_20", "relative_volume_20"]


def module_of(source: Csv | Parquet, folder: str, kind: Literal["prices", "series"]) -> WindowDataModule:
    policies = {name: "warn" if "warn" in check.policies else "error" for name, check in CHECKS.items()}
    return WindowDataModule(
        source=source,
        features=FEATURES if kind == "prices" else None,
        layout="per_asset",
        min_assets=1.0,
        window_size=64,
        shortest_window=None,
        shuffle_bars=False,
        corruption=None,
        stride=1,
        asset_weights=None,
        max_masked=0,
        batch_size=B,
        batch_size_per_device=None,
        split=ByFraction(train_fraction=0.7, val_fraction=0.15, embargo=0),
        fold=0,
        checks=Checks(
            policies=policies,
            scoring_policies={},
            interval=None,
            calendar="union",
            stale_bars=5,
            split_tolerance=0.03,
            kind=kind,
        ),
        overnight="keep",
        scale="pooled",
        scale_lookback=2,
        cache=folder,
        device="cpu",
        seed=0,
    )


def write_assets(folder: Path, kind: str, rows: int, assets: int) -> Path:
    """Random walks of several assets, a minute apart: a file each, or one CSV file of all, asset after asset."""
    generator = np.random.default_rng(0)
    count = rows // assets
    first = datetime(2020, 1, 1)
    stamps = pl.datetime_range(first, first + timedelta(minutes=count - 1), "1m", eager=True)
    path = folder / ("bars.csv" if kind == "csv" else "bars")
    path.mkdir() if kind == "parquet" else path.touch()
    for asset in range(assets):
        close = 100 * np.exp(np.cumsum(generator.normal(0, 1e-4, count)))
        open_ = close * np.exp(generator.normal(0, 1e-4, count))
        high = np.maximum(open_, close) * np.exp(generator.exponential(1e-4, count))
        low = np.minimum(open_, close) * np.exp(-generator.exponential(1e-4, count))
        volume = np.round(np.exp(generator.normal(8, 1, count))) + 1
        prices = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
        table = pl.DataFrame({"timestamp": stamps, "symbol": [f"A{asset:03}"] * count, **prices})
        if kind == "parquet":
            table.write_parquet(path / f"{asset:03}.parquet")
        else:
            with path.open("ab") as file:
                table.write_csv(file, include_header=asset == 0, float_precision=6)
    return path


def first_batch(path: str, folder: str, kind: Literal["prices", "series"]) -> dict[str, float]:
    """In a fresh process: seconds and peak memory from a file to the first batch, cache built on the way."""
    imports = resident()
    started, worked = time.perf_counter(), time.process_time()  # the latter of all threads
    table = Table(
        kind=kind,
        shape="auto",
        columns={},
        timestamp_format=None,
        price_scale=1.0,
        adjusted=False,
        assets=None,
        start=None,
        end=None,
        values=None,
    )
    source = Csv(path=path, separator=",", table=table) if path.endswith("csv") else Parquet(path=path, table=table)
    module = module_of(source, folder, kind)
    next(iter(module.train_dataloader()))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu": time.process_time() - worked, "peak": peak(), "imports": imports}


def bench_build() -> list[str]:
    """Tables of several lengths: seconds grow with them, memory must not."""
    lines = [
        "| table | rows | MiB of float64 | what is done | s to first batch | CPU, s | rows/s | peak, MiB | / table |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    million = 1_000_000
    for kind, read, rows, assets in (
        ("parquet", "prices", 10 * million, 20), ("parquet", "prices", 40 * million, 80),
        ("csv", "prices", 10 * million, 20), ("parquet", "series", million, 20),
        ("parquet", "series", 10 * million, 20),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = write_assets(Path(folder), kind, rows, assets)
            size = rows * 7 * 8 / MIB  # timestamp, asset, open, high, low, close, volume
            for what in ("read, checked, cache built", "cache found"):
                found = in_fresh_process("first_batch", str(path), f"{folder}/cache", read)
                seconds, most = found["seconds"], found["peak"]
                cells = (
                    f"{kind}, {read}, {assets} assets",
                    f"{rows:,}",
                    f"{size:,.0f}",
                    what,
                    f"{seconds:.1f}",
                    f"{found['cpu']:.1f}",
                )
                measured = f"{rows / seconds:,.0f}", f"{most:,.0f}", f"{most / size:.2f}"
                lines.append(f"| {' | '.join([*cells, *measured])} |")
    return [f"Imports alone take {found['imports']:,.0f} MiB of each peak.", "", *lines]


def write_mapped(folder: Path, bars: int) -> None:
    """A cache as `refold.data.long.cache` writes it, a block at a time."""
    empty = np.lib.format.open_memmap(folder / "values.npy", mode="w+", dtype=np.float32, shape=(bars, F))
    generator = np.random.default_rng(0)
    for start in range(0, bars, 1_000_000):
        empty[start : start + 1_000_000] = generator.standard_normal(
            (min(1_000_000, bars - start), F), dtype=np.float32
        )
    empty.flush()  # or the first steps would wait for the disk to finish writing
    np.save(folder / "times.npy", np.arange(bars, dtype=np.int64) * 60_000_000)
    edge = int(bars * 0.9)
    small = series_of(torch.zeros(1, F))
    prepared = Prepared(
        series=small,
        column_names=tuple(f"feature_{number}" for number in range(F)),
        scaler=Scaler(torch.zeros(F), torch.ones(F)),
        segments={
            "train": np.array([[0, edge]]),
            "val": np.array([[edge, bars - edge]]),
            "test": np.zeros((0, 2), int),
        },
        gap_bars=0,
        findings=pl.DataFrame(schema=FINDINGS),
        summary="made by the bench",
        fingerprint="0" * 12,
        entries=tuple(f"feature_{number}" for number in range(F)),
        timetables=Timetables({}),
        windows_lost={},
    )
    (folder / "meta.json").write_text(json.dumps(cache._meta(prepared)))
    prepared.findings.write_csv(folder / "findings.csv")


def first_steps(folder: str, steps: int) -> dict[str, float]:
    """In a fresh process: open the cache and train a small LSTM autoencoder for some steps, on one thread."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    prepared = cache.read(Path(folder))
    windows = Windows(prepared.series, prepared.segments["train"], window_size=64, stride=1)
    loader = iter(WindowLoader(windows, batch_size=B, shuffle=True, seed=0))
    encoder, decoder = torch.nn.LSTM(F, 64, batch_first=True), torch.nn.LSTM(64, F, batch_first=True)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    for _ in range(steps):
        batch = next(loader).windows
        code = encoder(batch)[1][0][-1]
        loss = (decoder(code[:, None].expand(-1, batch.shape[1], -1))[0] - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"seconds": time.perf_counter() - started, "peak": peak(), "own": anonymous()}


def bench_mapped() -> list[str]:
    bars, steps = 100_000_000, 20
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_mapped(Path(folder), bars)
        writing = time.perf_counter() - started
        found = in_fresh_process("first_steps", folder, steps)
    return [
        f"| {bars:,} bars, {F} features | writing, s | {steps} steps from start, s | peak, MiB | its own, MiB |",
        "|---|---|---|---|---|",
        f"| {bars * F * 4 / MIB:,.0f} MiB on disk | {writing:.0f} | {found['seconds']:.1f} | {found['peak']:,.0f} "
        f"| {found['own']:,.0f} |",
    ]


def check_of(path: str) -> dict[str, float]:
    """In a fresh process: seconds of `refold check`, as a user starts it."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "refold", "check", path], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        sys.exit(done.stderr)
    return {"seconds": time.perf_counter() - started, "cpu": children_cpu()}


def bench_check() -> list[str]:
    """Medians of three; a machine with other work takes longer, but hardly more seconds of processor time."""
    rows = ["| table | rows | s, start to end | CPU, s |", "|---|---|---|---|"]
    for kind in ("parquet", "csv"):
        with tempfile.TemporaryDirectory() as folder:
            path = write_assets(Path(folder), kind, 1_000_000, 20)
            found = [in_fresh_process("check_of", str(path)) for _ in range(3)]
        seconds, cpu = (statistics.median(one[name] for one in found) for name in ("seconds", "cpu"))
        rows.append(f"| {kind}, 20 assets | 1,000,000 | {seconds:.1f} | {cpu:.1f} |")
    return rows


def in_fresh_process(function: str, *arguments: str | int) -> dict[str, float]:
    """Peak memory is of a whole process: each measurement gets its own."""
    command = [sys.executable, __file__, json.dumps([function, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


BENCHES: dict[str, Callable[[], list[str]]] = {
    "gather": bench_gather,
    "memory": bench_memory,
    "build": bench_build,
    "mapped": bench_mapped,
    "check": bench_check,
}


def report(names: list[str]) -> str:
    """Run the named benches, or all, and return their tables."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        sys.exit(f"there is no bench {', '.join(sorted(unknown))}; it must be one of {', '.join(BENCHES)}")
    machine = platform.processor() or platform.machine()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, polars {pl.__version__}, Python {platform.python_version()}"
    lines = [f"{machine}, {threads}, {versions}"]
    for name in names or BENCHES:
        lines += ["", f"### {name}", "", *BENCHES[name]()]
    return "\n".join(lines)


if __name__ == "__main__":
    # a measurement in a process of its own: see in_fresh_process
    function, *rest = json.loads(sys.argv[1])
    print(json.dumps(globals()[function](*rest)))
