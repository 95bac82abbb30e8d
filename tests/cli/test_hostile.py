"""Places that cannot be written, as a command meets them: a full disk, a directory that is read-only."""

import logging.config

import polars as pl
import pytest
from conftest import CONF

from refold.config.check import explain
from refold.errors import RefoldError
from refold.runs.directory import atomic_folder, full_disk_as_refold_error


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


def test_a_run_directory_in_which_no_log_can_be_opened_is_one_message(tmp_path):
    handler = {"class": "logging.FileHandler", "filename": str(tmp_path / "not there" / "train.log")}
    with pytest.raises(ValueError, match="Unable to configure handler") as caught:
        logging.config.dictConfig({"version": 1, "handlers": {"file": handler}, "incremental": False})
    assert explain(caught.value, CONF) == (
        f"hydra.run.dir: {tmp_path}/not there/train.log cannot be written: No such file or directory"
    )
