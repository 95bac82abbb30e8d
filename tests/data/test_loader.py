import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.data import Series, WindowLoader, Windows
from refold.errors import DataError


def windows(count: int, present: torch.Tensor | None = None) -> Windows:
    """Windows of one bar whose only feature is their number."""
    values = torch.arange(count, dtype=torch.float32).view(count, 1)
    return Windows(
        Series(values, present, np.arange(count), pl.Date(), None, ("A",), np.array([0])),
        np.array([[0, count]]),
        window_size=1,
        stride=1,
    )


def loader(count: int, batch_size: int, *, shuffle: bool = True, **others) -> WindowLoader:
    return WindowLoader(windows(count), batch_size=batch_size, shuffle=shuffle, **{"seed": 0, **others})


def numbers(batches) -> list[int]:
    return [number for batch in batches for number in batch.index.tolist()]


def test_a_batch_holds_the_windows_that_its_index_names():
    for batch in loader(100, 8):
        assert torch.equal(batch.windows.view(-1).long(), batch.index)
        assert batch.mask is None
        assert batch.weight == 1.0


def test_training_drops_the_incomplete_last_batch_and_repeats_nothing():
    seen = numbers(loader(100, 8))
    assert len(seen) == len(set(seen)) == 96


def test_an_only_batch_is_kept_though_incomplete():
    assert sorted(numbers(loader(5, 8))) == list(range(5))


def test_order_is_a_function_of_seed_and_epoch():
    first, again, other = loader(100, 8), loader(100, 8), loader(100, 8, seed=1)
    assert numbers(first) == numbers(again) == numbers(first)
    assert numbers(first) != numbers(other)
    again.sampler.set_epoch(1)
    assert numbers(first) != numbers(again)
    again.sampler.set_epoch(0)
    assert numbers(first) == numbers(again)


@settings(deadline=None)
@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), world_size=st.integers(1, 5), shuffle=st.booleans())
def test_processes_share_each_batch_of_the_single_process(count, batch_size, world_size, shuffle):
    if shuffle and min(count, batch_size) < world_size:
        with pytest.raises(DataError, match="at least one window for each of the"):
            loader(count, batch_size, world_size=world_size)
        return
    alone = list(loader(count, batch_size, shuffle=shuffle))
    ranks = [loader(count, batch_size, shuffle=shuffle, world_size=world_size, rank=r) for r in range(world_size)]
    shares = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(share) for share in shares]
    if shuffle:
        assert len({len(share) for share in shares}) == 1  # an optimizer step needs all processes
    for number, batch in enumerate(alone):
        theirs = [share[number] for share in shares if number < len(share)]
        assert sorted(numbers(theirs)) == sorted(batch.index.tolist())
        assert sum(part.weight for part in theirs) == pytest.approx(world_size)


@settings(deadline=None)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 9), shuffle=st.booleans(), data=st.data())
def test_resume_at_any_batch_sees_the_rest_once(count, batch_size, shuffle, data):
    whole = loader(count, batch_size, shuffle=shuffle)
    whole.sampler.set_epoch(3)
    expected = numbers(whole)
    stop = data.draw(st.integers(0, len(whole)))
    interrupted = loader(count, batch_size, shuffle=shuffle)
    interrupted.sampler.set_epoch(3)
    iterator = iter(interrupted)
    seen = numbers(next(iterator) for _ in range(stop))
    resumed = loader(count, batch_size, shuffle=shuffle)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.sampler.set_epoch(3)  # as Lightning does after loading
    rest = numbers(resumed)
    assert (rest if stop == len(whole) else seen + rest) == expected
    assert numbers(resumed) == expected  # and the epoch after the resumed one is whole


def test_a_position_of_another_epoch_is_forgotten():
    resumed = loader(40, 4)
    resumed.load_state_dict({"epoch": 0, "batches": 7})
    resumed.sampler.set_epoch(1)
    assert len(numbers(resumed)) == 40


def test_weight_is_the_share_of_present_bars():
    present = torch.tensor([True, False, False, True, True, True, True, False])
    shares = [
        WindowLoader(windows(8, present), batch_size=4, shuffle=False, seed=0, world_size=2, rank=rank)
        for rank in range(2)
    ]
    # first batch: windows 0..3, present T F F T; process 0 takes 0 and 2, process 1 takes 1 and 3
    assert [next(iter(share)).weight for share in shares] == [1.0, 1.0]
    assert [list(share)[1].weight for share in shares] == [pytest.approx(4 / 3), pytest.approx(2 / 3)]


def test_a_batch_without_a_present_bar_weighs_nothing():
    batch = next(iter(WindowLoader(windows(4, torch.zeros(4, dtype=torch.bool)), batch_size=4, shuffle=False, seed=0)))
    assert batch.weight == 0.0


def test_order_does_not_change_at_the_border_of_its_blocks(monkeypatch):
    expected = numbers(loader(100, 8))
    monkeypatch.setattr("refold.data.windows.loader._BLOCK", 10)
    assert numbers(loader(100, 8)) == expected
