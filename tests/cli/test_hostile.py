"""Places that cannot be written, as a command meets them: a full disk, a directory that is read-only."""

import logging.config
import os
import stat
import subprocess
import sys
from datetime import date, timedelta

import polars as pl
import pytest
from conftest import CONF, ROOT, TINY, clean_environment

from refold.config.explain import explain
from refold.errors import RefoldError
from refold.runs.directory import atomic_folder, full_disk_as_refold_error, write_atomically


def test_a_disk_that_is_full_for_polars_is_one_message():
    with (
        pytest.raises(RefoldError, match=r"^here cannot be written: No space left on device$"),
        full_disk_as_refold_error("here"),
    ):
        pl.DataFrame({"a": range(1000)}).write_parquet("/dev/full")


def test_a_folder_that_cannot_be_filled_is_not_left_behind(tmp_path):
    def fill() -> None:
        with atomic_folder(tmp_path / "scores/own", "out", ["a.parquet"]) as folder:
            (folder / "a.parquet").symlink_to("/dev/full")
            pl.DataFrame({"a": range(1000)}).lazy().sink_parquet(folder / "a.parquet")

    with pytest.raises(RefoldError, match="cannot be written: No space left on device"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_is_private_until_it_is_complete_and_then_as_the_umask_says(mask, tmp_path, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "fchmod", lambda file, mode: (seen.append(os.fstat(file).st_mode), os.chmod(file, mode)))
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert os.replace is replace
    assert [stat.S_IMODE(mode) for mode in seen] == [0o600]
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~mask


@pytest.mark.slow
def test_no_name_of_an_asset_is_a_formula_in_what_a_training_writes(tmp_path, tiny_run):
    names = ("=HYPERLINK(1)", "+A", "-A", "@A")
    rows = [
        f"{date(2020, 1, 1) + timedelta(day)},{name},{100 + (day // 9) % 5 + day % 2 * (day % 90 > 12)}"
        for name in names for day in range(400)
    ]  # fmt: skip
    (tmp_path / "bars.csv").write_text("\n".join(["date,symbol,close", *rows]) + "\n")
    tiny_run("data=csv", f"data.path={tmp_path / 'bars.csv'}", "data.window_size=16")
    found = pl.read_csv(tmp_path / "run/findings.csv")
    assert set(found["asset"]) == {f"'{name}" for name in names}


@pytest.mark.slow
def test_a_run_without_a_home_and_with_a_folder_for_temporary_files_that_is_not_there(tmp_path):
    environment = {**clean_environment(tmp_path), "TMPDIR": str(tmp_path / "not there")}
    del environment["HOME"]
    command = [sys.executable, str(ROOT / "train.py"), *TINY, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/result.json").is_file()


def test_a_run_directory_in_which_no_log_can_be_opened_is_one_message(tmp_path):
    handler = {"class": "logging.FileHandler", "filename": str(tmp_path / "not there" / "train.log")}
    with pytest.raises(ValueError, match="Unable to configure handler") as caught:
        logging.config.dictConfig({"version": 1, "handlers": {"file": handler}, "incremental": False})
    assert explain(caught.value, CONF) == (
        f"hydra.run.dir: {tmp_path}/not there/train.log cannot be written: No such file or directory"
    )
