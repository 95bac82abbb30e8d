"""What a user sees of `python scripts/encode.py`: a table of codes, or one message."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import polars as pl
import pytest
import torch
from conftest import ROOT, clean_environment, compose_run

from refold.config import build as config
from refold.library.run import load_run

CONF = ROOT / "conf"


@pytest.fixture
def encode(run_dir, script) -> Callable[..., tuple[int, str, str]]:
    """`python scripts/encode.py run=... ...` in this process: exit status, stdout, stderr."""
    return partial(script, "encode", f"run={run_dir}")


@pytest.mark.slow
def test_the_runs_own_bars(run_dir, encode):
    status, out, _ = encode()
    assert status == 0
    table = pl.read_parquet(run_dir / "latents/own/latents.parquet")
    assert f"{table.height:,} windows, 4 numbers each: {run_dir}/latents/own/latents.parquet" in out
    run = load_run(run_dir)
    data = config.build_data(run.config)
    windows = data.test_windows
    index = torch.arange(0, len(windows), 50)
    keys = pl.DataFrame({"timestamp": windows.timestamps(index)[:, -1], "asset": windows.assets(index)})
    found = keys.with_columns(pl.col("timestamp").cast(table.schema["timestamp"])).join(
        table, on=["timestamp", "asset"], how="left", maintain_order="left"
    )
    codes = torch.from_numpy(found.select("^z_.*$").to_numpy())
    with torch.no_grad():
        torch.testing.assert_close(codes, run.autoencoder.encode(windows.gather(index)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_new_file_from_the_command_line(run_dir, tmp_path):
    bars = config.build_data(compose_run([])).source.load().filter(pl.col("asset").is_in(["AAPL", "MSFT"]))
    bars.write_parquet(tmp_path / "two.parquet")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/encode.py"), f"run={run_dir}", f"data.path={tmp_path / 'two.parquet'}"],
        cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(run_dir / "latents/two/latents.parquet")
    assert sorted(table["asset"].unique()) == ["AAPL", "MSFT"]
    assert bars.height - 2 * 60 < table.height < bars.height  # windows of 32 bars, features that look back over 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=few.csv"], "the run's features "),
        (["data.path=nowhere.csv"], "nowhere.csv'; there is no such file"),
        (["score=gauss_d"], "score: there is no such setting of encode.py"),
        (["device=tpu"], "device is 'tpu'; it must be one of auto, cpu, cuda"),
    ],
)
def test_a_mistake_ends_in_its_message_and_leaves_nothing(arguments, message, run_dir, tmp_path, monkeypatch, encode):
    monkeypatch.chdir(tmp_path)
    rows = [f"2020-01-{day:02},{100 + day % 7}" for day in range(1, 29)]
    (tmp_path / "few.csv").write_text("\n".join(["date,AAPL", *rows]) + "\n")
    before = sorted(run_dir.rglob("*"))
    status, _, err = encode(*arguments)
    assert status == 2
    assert message in err
    if arguments == ["data.path=few.csv"]:
        assert "missing open, high, low, volume" in err
    assert sorted(run_dir.rglob("*")) == before
