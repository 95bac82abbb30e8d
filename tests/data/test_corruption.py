"""data.corruption: what is hidden is a function of seed, epoch and batch, and only training windows lose it."""

import numpy as np
import pytest
import torch

from refold.data.windows.corruption import HiddenBars
from refold.data.windows.loader import WindowLoader
from tests.data.makers import random_bars, ready

BARS = random_bars([300, 200], seed=6)
HIDDEN = HiddenBars(share=0.3, longest=4)


def train(**others) -> WindowLoader:
    settings = {"batch_size": 24, "shuffle": True, "seed": 3, "corruption": HIDDEN, **others}
    return WindowLoader(ready(BARS).train_windows, **settings)


@pytest.mark.parametrize(("share", "longest"), [(0.15, 1), (0.15, 4), (0.5, 8), (0.9, 3)])
def test_the_share_is_hidden_on_average_at_each_bar_in_runs(share, longest):
    hidden = HiddenBars(share=share, longest=longest).hidden(4000, 20, np.random.default_rng(0))
    np.testing.assert_allclose(hidden.mean(axis=0), share, atol=0.04)  # at the first bars too
    starts = (hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]).sum()
    assert hidden.sum() / starts >= (1 + longest) / 2 * 0.8
    if longest == 1:
        assert hidden.sum() / starts == pytest.approx(1 / (1 - share), rel=0.1)  # bars alone, that touch by chance


def test_hidden_bars_are_zeros_and_the_target_is_the_window_as_it_was():
    windows = ready(BARS).train_windows
    seen = 0
    for batch in train():
        assert torch.equal(batch.windows, windows.gather(batch.index))
        hidden = (batch.given != batch.windows).any(dim=2)
        assert (batch.given[hidden] == 0).all()
        assert torch.equal(batch.given[~hidden], batch.windows[~hidden])
        seen += int(hidden.sum())
    assert seen > 0


def test_each_epoch_hides_others_and_each_seed_its_own():
    def given(seed: int, epoch: int) -> torch.Tensor:
        loader = train(seed=seed, shuffle=False)
        loader.set_epoch(epoch)
        return torch.cat([batch.given for batch in loader])

    assert torch.equal(given(3, 0), given(3, 0))
    assert not torch.equal(given(3, 0), given(3, 1))
    assert not torch.equal(given(3, 0), given(4, 0))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_what_the_single_process_hides(world_size):
    shares = [list(train(world_size=world_size, rank=rank)) for rank in range(world_size)]
    for whole, *parts in zip(train(), *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.given, whole.given[rank::world_size])


def test_a_resumed_epoch_hides_what_it_would_have_hidden():
    expected = list(train())
    for stop in (1, len(expected) - 1):
        interrupted, resumed = train(), train()
        iterator = iter(interrupted)
        for _ in range(stop):
            next(iterator)
        resumed.load_state_dict(interrupted.state_dict())
        for one, two in zip(resumed, expected[stop:], strict=True):
            assert torch.equal(one.given, two.given)


def test_it_moves_no_other_random_number_and_the_shorter_length_is_that_of_the_batch():
    settings = {"shortest": 3, "shuffle_bars": True}
    for plain, spoilt in zip(train(corruption=None, **settings), train(**settings), strict=True):
        assert plain.given is None
        assert torch.equal(plain.windows, spoilt.windows)
        assert spoilt.given.shape == spoilt.windows.shape


def test_validation_and_test_see_all_bars():
    data = ready(BARS, corruption=HIDDEN)
    assert next(iter(data.train_dataloader())).given is not None
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert all(batch.given is None for batch in loader)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0, "longest": 4}, r"data\.corruption\.share is 0\.0"),
        ({"share": 1.0, "longest": 4}, r"data\.corruption\.share is 1\.0"),
        ({"share": 0.1, "longest": 0}, r"data\.corruption\.longest is 0"),
    ],
)
def test_bounds_name_value_and_key(settings, message):
    with pytest.raises(ValueError, match=message):
        HiddenBars(**settings)
