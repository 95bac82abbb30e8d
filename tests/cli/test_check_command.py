"""`refold check`: everything there is to know of a table, before any training and without torch."""

import json
import shlex
import subprocess
import sys

import polars as pl
import pytest
from conftest import CONF

from refold.cli import check
from refold.cli.command import run_command
from refold.config import build
from refold.config.compose import compose_settings, without_hydra
from tests.data.makers import random_bars
from tests.data.spoilt import SOUND, cell, scaled, wide

OHLC = ("open", "high", "low", "close")


@pytest.fixture
def bars(tmp_path):
    """A file of two assets, long enough for the windows of the default settings."""
    path = tmp_path / "bars.csv"
    random_bars([600, 580]).rename({"asset": "symbol"}).write_csv(path)
    return path


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["refold check", *map(str, arguments)])
    try:
        return run_command(check.main, CONF)
    except SystemExit as ended:
        return int(ended.code or 0)


def as_json(monkeypatch, capsys, *arguments: str) -> dict:
    status = run(monkeypatch, *arguments, "--json")
    found = json.loads(capsys.readouterr().out)
    assert {"clean": 0, "findings": 1, "unreadable": 2}[found["status"]] == status
    return found


def written(tmp_path, lines: list[str]):
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def windows(overrides: list[str]) -> dict[str, int]:
    """The windows that a run with these overrides has in each part."""
    data = build.build_data(without_hydra(compose_settings(overrides)))
    data.setup()
    return {"train": len(data.train_windows), "val": len(data.val_windows), "test": len(data.test_windows)}


def test_a_sound_table_is_described_and_ends_with_0(bars, monkeypatch, capsys):
    assert run(monkeypatch, bars) == 0
    said = capsys.readouterr().out
    for line in (
        "1,180 rows, 7 columns, separator ','",
        "symbol     asset",
        "A: 600 bars",
        "bars come  every 1 d (A, B), every day",
    ):
        assert line in said
    assert "findings   none" in said
    command = shlex.split(said.strip().splitlines()[-1])
    assert command[:2] == ["refold", "train"]
    assert windows(command[2:]).values()


def test_what_it_says_of_windows_is_what_a_run_has(bars, monkeypatch, capsys):
    chosen = ["data.window_size=16", "data.stride=3", "data.split.embargo=2"]
    found = as_json(monkeypatch, capsys, bars, *chosen)
    assert found["windows"] == windows(found["overrides"])
    assert (
        found["overrides"] == ["data=csv", f"data.path='{bars}'", *chosen] or f"data.path={bars}" in found["overrides"]
    )
    panel = as_json(monkeypatch, capsys, bars, "data.layout=panel", "data.window_size=8")
    assert panel["windows"] == windows(panel["overrides"])


@pytest.mark.parametrize(
    ("lines", "check_name", "example", "mending"),
    [
        (cell("close", ""), "missing_value", "row 12, A 2020-01-11: open 104.54", "missing_value=mask"),
        (cell("close", "-100"), "non_positive", "close -100.0", "non_positive=mask"),
        (cell("date", ""), "missing_timestamp", "row 12, A None", "missing_timestamp=drop"),
        (cell("symbol", ""), "missing_timestamp", "row 12, None 2020-01-11", "missing_timestamp=drop"),
        ([*SOUND, SOUND[11]], "duplicate", "A 2020-01-11", "duplicate=drop"),
        (scaled(0.5, *range(20, 41)), "split_like", "row 21, A 2020-01-20", None),
        (wide(A=""), "gap", "A 2020-01-11", None),
    ],
)
def test_every_check_is_heard_and_mended(lines, check_name, example, mending, tmp_path, monkeypatch, capsys):
    found = as_json(monkeypatch, capsys, written(tmp_path, lines), "data.window_size=4")
    finding = next(finding for finding in found["findings"] if finding["check"] == check_name)
    assert example in finding["examples"][0]
    assert found["status"] == "findings"
    if mending:
        assert f"data.checks.policies.{mending}" in found["overrides"]
    assert found["windows"] == windows(found["overrides"])
    assert not found["obstacles"]


def test_a_shorter_window_is_named_where_the_default_leaves_none(tmp_path, monkeypatch, capsys):
    found = as_json(monkeypatch, capsys, written(tmp_path, SOUND))
    assert "data.features=[intraday_return,parkinson_range]" in found["overrides"]
    assert found["windows"] == windows(found["overrides"])
    fewer = as_json(monkeypatch, capsys, written(tmp_path, SOUND), "data.features=[log_return]")
    assert fewer["overrides"][2:] == ["data.features=[log_return]", "data.window_size=3"]
    short = as_json(monkeypatch, capsys, written(tmp_path, SOUND[:3]))
    assert short["obstacles"]


@pytest.mark.parametrize("clock", ["intraday", "midnight"])
def test_a_column_of_times_of_the_day_is_a_part_of_the_time_or_not_used(clock, tmp_path, monkeypatch, capsys):
    """As MetaTrader and stooq write them."""
    hours = range(9, 17) if clock == "intraday" else [0]
    times = [f"2024.01.{day:02}\t{hour:02}:00:00" for day in range(1, 32) for hour in hours]
    rows = [f"{time}\t{100 + n % 7}\t{108 + n % 3}\t{99 - n % 3}\t{100 + n % 5}" for n, time in enumerate(times)]
    path = written(tmp_path, ["<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>", *rows])
    found = as_json(monkeypatch, capsys, path, "data.window_size=4", "data.features=[intraday_return]")
    parts = {column["name"]: column["part"] for column in found["columns"]}
    time = "timestamp" if clock == "intraday" else "not used"
    assert parts == {"DATE": "timestamp", "TIME": time, **{name.upper(): name for name in OHLC}}


def test_columns_that_are_not_used_are_named(tmp_path, monkeypatch, capsys):
    lines = [f"{line},{'note' if number == 0 else 'x'}" for number, line in enumerate(SOUND)]
    found = as_json(monkeypatch, capsys, written(tmp_path, lines), "data.window_size=4")
    assert found["columns"][-1] == {"name": "note", "part": "not used"}
    assert found["columns"][0] == {"name": "date", "part": "timestamp"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "there is no such file"),
        (["a.csv", "b.csv"], "one table is checked at a time"),
        ([], "there is nothing to check"),
        (["missing.csv", "data.window_size=abc"], "data.window_size is 'abc'"),
        (["missing.csv", "data.stride=0"], "data.stride is 0; it must be at least 1"),
        (["missing.csv", "data.layout=pannel"], "it must be one of per_asset, panel; did you mean panel?"),
        (["missing.csv", "data.scale_lookback=1"], "data.scale_lookback is 1; it must be at least 2"),
        (["missing.csv", "data.source.tabel=1"], "data.source.tabel"),
        (["missing.csv", "data.split.embargo=-1"], "data.split.embargo is -1"),
    ],
)
def test_what_cannot_be_read_ends_with_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_table_that_cannot_be_read_is_json_too(tmp_path, monkeypatch, capsys):
    found = as_json(monkeypatch, capsys, written(tmp_path, cell("close", "n/a")))
    assert "row 12, column 'close': 'n/a' is not a number" in found["message"]


def test_parquet_and_sources_that_are_no_tables(tmp_path, monkeypatch, capsys):
    random_bars([400]).write_parquet(tmp_path / "bars.parquet")
    assert as_json(monkeypatch, capsys, tmp_path / "bars.parquet")["bars"] == 400
    found = as_json(monkeypatch, capsys, "data=synthetic", "data.source.bars=300", "data.source.assets=2")
    assert found["bars"] == 600


def test_a_constant_feature_is_left_out(tmp_path, monkeypatch, capsys):
    frame = random_bars([400]).with_columns(open=pl.col("close"))
    frame.write_csv(tmp_path / "bars.csv")
    chosen = "data.features=[log_return,intraday_return]"
    found = as_json(monkeypatch, capsys, tmp_path / "bars.csv", chosen, "data.checks.policies.broken_bar=warn")
    assert "data.features=[log_return]" in found["overrides"]


@pytest.mark.slow
def test_torch_is_not_loaded(bars):
    code = (
        "import sys; from refold.cli import check; sys.argv = ['refold check', sys.argv[1]]; check.main()\n"
        "print(*[name for name in ('torch', 'lightning', 'pandas', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bars)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("mark", [",", ".", ";", "^", "~", "|", " "])
def test_a_mark_is_understood_as_a_shell_hands_it_over(mark):
    for key in ("data.source.separator", "data.source.decimal", "data.source.thousands"):
        found = compose_settings(["data=csv", f"{key}={mark}"])
        assert found.data.source[key.rpartition(".")[2]] == mark


def test_a_file_that_needs_three_settings_names_all_of_them(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, ["date;close", *(f"{day:02}/01/2020;{day},5" for day in range(1, 32))])
    wrong = ["data.source.separator=|", "data.source.decimal=."]
    message = as_json(monkeypatch, capsys, path, *wrong)["message"]
    for setting in ("separator=';'", "timestamp_format='%d/%m/%Y'", "decimal=','"):
        assert setting in message
    right = ["data.source.separator=;", "data.source.decimal=,", "data.source.table.timestamp_format=%d/%m/%Y"]
    found = as_json(monkeypatch, capsys, path, *right)
    assert found["windows"] == windows(found["overrides"])


def test_any_numbers_are_described_and_numbers_below_0_are_no_prices(tmp_path, monkeypatch, capsys):
    rows = [f"2020-01-{day:02} {hour:02}:00,{day % 7 - 3},{hour - 12},5," for day in range(1, 31) for hour in range(24)]
    path = written(tmp_path, ["datetime,flow,level,set point,spare", *rows])
    found = as_json(monkeypatch, capsys, path, "data=series")
    parts = ["timestamp", "value", "value", "constant, not used", "empty, not used"]
    assert [column["part"] for column in found["columns"]] == parts
    assert found["features"] == ["flow", "level"]
    assert found["windows"] == windows(found["overrides"])
    assert found["assets"][0]["interval"] == "1 h"
    assert "data=series" in as_json(monkeypatch, capsys, path)["obstacles"][0]


def test_assets_of_several_intervals_are_heard(tmp_path, monkeypatch, capsys):
    bars = random_bars([400, 380])
    hours = pl.col("timestamp").cast(pl.Datetime("us")) + pl.duration(hours=pl.int_range(pl.len()))
    first, second = bars.filter(pl.col("asset") == "A"), bars.filter(pl.col("asset") == "B")
    start = pl.lit(bars["timestamp"][0]).cast(pl.Datetime("us")) + pl.duration(hours=pl.int_range(pl.len()))
    pl.concat([first.with_columns(timestamp=start), second.with_columns(timestamp=hours.dt.truncate("1d"))]).write_csv(
        tmp_path / "mixed.csv"
    )
    found = as_json(monkeypatch, capsys, tmp_path / "mixed.csv", "data.window_size=8")
    mixed = next(finding for finding in found["findings"] if finding["check"] == "mixed_interval")
    assert mixed["assets"] == 1
    assert "data.checks.policies.mixed_interval=warn" in found["overrides"]
    if not found["obstacles"]:
        assert found["windows"] == windows(found["overrides"])
