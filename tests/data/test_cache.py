from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import WindowLoader
from refold.data.long.cache import write_folder
from refold.data.windows import views as windows
from refold.errors import DataError
from tests.data.makers import checks, fractions, module, random_bars, ready, with_value

BARS = with_value(random_bars([200, 150]), [50], "close", None)
SETTINGS = {"checks": checks(missing_value="mask"), "max_masked": 3}


def test_mapped_and_held_in_memory_are_equal(tmp_path):
    held = ready(BARS, **SETTINGS)
    for _ in range(2):  # built, then read
        mapped = ready(BARS, cache=str(tmp_path), **SETTINGS)
        assert mapped.scaler == held.scaler
        assert mapped.description == held.description
        assert mapped.findings.equals(held.findings)
        for part in ("train", "val", "test"):
            one, two = held.windows(part), mapped.windows(part)
            index = np.arange(len(one))
            assert torch.equal(one.gather(index), two.gather(index))
            assert torch.equal(one.mask(index), two.mask(index))
            assert np.array_equal(one.timestamps(index), two.timestamps(index))
            assert one.assets(index) == two.assets(index)
            assert torch.equal(one.last_close(index), two.last_close(index)) or part == "train"  # NaN at the start
    assert len(list(tmp_path.iterdir())) == 1


def resident_of(file: Path) -> int:
    """Bytes of a file that this process has mapped and resident."""
    blocks = Path("/proc/self/smaps").read_text().split(str(file))[1:]
    return sum(1024 * int(block.split("Rss:")[1].split()[0]) for block in blocks)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are counted on Linux alone")
def test_pages_of_a_large_file_do_not_stay_resident(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "LARGE_FILE", 0)
    train = ready(BARS, cache=str(tmp_path), **SETTINGS).train_windows
    file = next(tmp_path.glob("*/values.npy"))
    index = np.arange(len(train))
    before = train.gather(index).clone()
    assert resident_of(file) > 0
    train.series.let_pages_go()
    assert resident_of(file) == 0
    assert torch.equal(train.gather(index), before)
    asked = []
    monkeypatch.setattr(windows.Series, "let_pages_go", lambda series: asked.append(series))
    batches = list(WindowLoader(train, batch_size=4, shuffle=True, seed=0))
    assert len(asked) == len(batches) > 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are counted on Linux alone")
def test_a_small_file_stays_resident(tmp_path):
    train = ready(BARS, cache=str(tmp_path), **SETTINGS).train_windows
    index = np.arange(len(train))
    file = next(tmp_path.glob("*/values.npy"))
    train.gather(index)
    train.series.let_pages_go()
    assert resident_of(file) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"features": ["log_return"]},
        {"window_size": 9},
        {"split": fractions(0.5)},
        {"split": fractions(0.6, 0.2, 1)},
        {"checks": checks(missing_value="mask", stale_bars=7)},
        {"checks": checks(missing_value="drop")},
        {"max_masked": 2},
        {"layout": "panel"},
    ],
)
def test_what_decides_the_outcome_decides_the_folder(tmp_path, change):
    ready(BARS, cache=str(tmp_path), **SETTINGS)
    ready(BARS, cache=str(tmp_path), **{**SETTINGS, **change})
    assert len(list(tmp_path.iterdir())) == 2


def test_other_data_have_another_folder_and_batch_size_has_not(tmp_path):
    ready(BARS, cache=str(tmp_path), **SETTINGS)
    ready(BARS, cache=str(tmp_path), batch_size=7, seed=3, stride=2, **SETTINGS)
    assert len(list(tmp_path.iterdir())) == 1
    ready(BARS.with_columns(pl.col("volume") * 2), cache=str(tmp_path), **SETTINGS)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("refold.data.long.cache._meta", lambda prepared: {"not json": object()})
    with pytest.raises(TypeError):
        ready(BARS, cache=str(tmp_path), **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_who_finishes_second_leaves_what_the_first_has_built(tmp_path):
    data = module(BARS, **SETTINGS)
    write_folder(data._build, tmp_path / "same")
    first = (tmp_path / "same" / "values.npy").stat().st_ino
    write_folder(data._build, tmp_path / "same")
    assert (tmp_path / "same" / "values.npy").stat().st_ino == first
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache is .*; it cannot be written"):
        ready(BARS, cache=str(tmp_path / "file"), **SETTINGS)


def test_a_source_that_may_change_unseen_is_not_cached(tmp_path):
    made = module(BARS, cache=str(tmp_path), **SETTINGS)
    made.source.identity = lambda: None
    with pytest.raises(DataError, match=r"data\.cache is .*; a frame may change unseen, so it must be null"):
        made.setup()
