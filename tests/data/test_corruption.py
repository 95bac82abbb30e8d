"""data.corruption: what is hidden is a function of seed, epoch and batch, and only training windows lose it."""

import numpy as np
import pytest
import torch

from refold.data.planted import PriceUnit, RealJump, Stale, VolumeUnit
from refold.data.windows.corruption import HiddenBars
from refold.data.windows.loader import WindowLoader
from refold.data.windows.planted_copies import PlantedCopies
from refold.errors import DataError
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


# ---- planted errors --------------------------------------------------------------------------------------------------

FEATURES = ["overnight_return", "intraday_return", "high_return", "low_return"]
KINDS = {"unit": PriceUnit("unit", [100.0], 2), "stale": Stale("stale", 3, 5, 0.0), "none": None}


def planted(**others) -> PlantedCopies:
    return PlantedCopies(**{"kinds": KINDS, "per_thousand": 10.0, "copies": 3, **others})


def spoilt_loader(bars=BARS, corruption=None, epoch=0, **others) -> tuple[WindowLoader, object]:
    """A loader of training windows of a module of its own, and the module."""
    data = ready(bars, features=FEATURES, corruption=corruption or planted(), batch_size=24, seed=3, **others)
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return loader, data


def test_errors_are_planted_into_the_input_and_the_target_stays_clean():
    loader, data = spoilt_loader()
    clean = ready(BARS, features=FEATURES, batch_size=24, seed=3)
    largest = clean.train_windows.series.values.abs().max()
    wrong = total = 0
    for batch, before in zip(loader, clean.train_dataloader(), strict=True):
        assert torch.equal(batch.windows, before.windows)  # nothing else that is drawn moves
        assert torch.equal(batch.windows, data.train_windows.gather(batch.index))
        changed = (batch.given != batch.windows).any(dim=2)
        wrong, total = wrong + int(changed.sum()), total + changed.numel()
    assert 0.02 < wrong / total < 0.3
    copies = [data.corruption.series(data.train_windows.series, np.random.default_rng(n)) for n in range(20)]
    assert max(float(one.values.abs().max()) for one in copies) > 3 * largest  # prices in another unit
    outside = np.ones(len(clean.train_windows.series.times), dtype=bool)
    for first, count in data.segments("train"):
        outside[first : first + count] = False
    held = torch.from_numpy(outside) & (data.train_windows.series.values != 0).any(dim=1)
    for part in ("val", "test"):  # no error reaches beyond the part
        for first, count in data.segments(part):
            rows = slice(first, first + count)
            assert torch.equal(copies[0].values[rows], data.train_windows.series.values[rows])
    assert held.any()


def test_planted_errors_depend_on_seed_epoch_and_batch_alone():
    def given(epoch: int, seed: int = 3) -> list[torch.Tensor]:
        loader, _ = spoilt_loader(epoch=epoch, shuffle_bars=False)
        loader.seed = seed
        loader.shuffle = False
        return [batch.given for batch in loader]

    once, again, later = given(0), given(0), given(1)
    assert all(torch.equal(one, two) for one, two in zip(once, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(once, later, strict=True))
    loader, _ = spoilt_loader()
    loader.shuffle = False
    last = loader.batch(len(loader) - 1)  # what was asked for before does not matter
    assert torch.equal(last.given, once[-1])
    other = ready(BARS, features=FEATURES, corruption=planted(), seed=4)
    first, second = (
        data.corruption.series(data.train_windows.series, np.random.default_rng(0)).values
        for data in (spoilt_loader()[1], other)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_processes_share_planted_errors_of_both_layouts(layout):
    loader, data = spoilt_loader(random_bars([300, 300], seed=6), layout=layout)
    shares = [
        WindowLoader(
            data.train_windows, batch_size=24, shuffle=True, seed=3, corruption=data.corruption, world_size=2, rank=rank
        )
        for rank in (0, 1)
    ]
    differ = False
    for whole, *parts in zip(loader, *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.given, whole.given[rank::2])
        differ |= not torch.equal(whole.given, whole.windows)
    assert differ


def test_bars_in_a_random_order_have_their_own_errors():
    settings = {"corruption": planted(kinds={"unit": PriceUnit("unit", [100.0], 1)}, per_thousand=30.0)}
    shuffled, _ = spoilt_loader(shuffle_bars=True, **settings)
    plain, _ = spoilt_loader(**settings)
    for one, two in zip(shuffled, plain, strict=True):
        order = (one.windows[:, :, None] == two.windows[:, None]).all(dim=3).int().argmax(dim=2)
        assert torch.equal(one.given, two.given.take_along_dim(order[..., None], dim=1))


def test_a_kind_that_the_bars_cannot_have_is_left_out_and_said_in_training_too(caplog):
    kinds = {**KINDS, "volume": VolumeUnit("volume unit", [100.0], 1)}
    with caplog.at_level("WARNING", logger="refold"):
        ready(BARS.drop("volume"), features=FEATURES, corruption=planted(kinds=kinds))
    assert "data.corruption.kinds: left out, since the bars cannot have them: 'volume unit' (no volume)" in caplog.text
    with pytest.raises(DataError, match=r"data\.corruption\.kinds has no error that the bars can have"):
        ready(BARS.drop("volume"), features=FEATURES, corruption=planted(kinds={"volume": kinds["volume"]}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {}}, r"data\.corruption\.kinds has no kind of error"),
        ({"kinds": {"jump": RealJump("real jump", 1.0, 2.0, "move", 2.0)}}, "'real jump', a real move"),
        ({"copies": 0}, r"data\.corruption\.copies is 0; it must be at least 1"),
        ({"per_thousand": 0.0}, r"data\.corruption\.per_thousand is 0\.0; it must be"),
    ],
)
def test_settings_of_planted_errors_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        planted(**settings)


def test_errors_that_find_no_room_are_said():
    with pytest.raises(DataError, match=r"no room for one more .*data\.corruption\.per_thousand"):
        next(iter(spoilt_loader(corruption=planted(per_thousand=400.0))[0]))
