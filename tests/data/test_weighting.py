import numpy as np
import polars as pl
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.data import WindowLoader
from refold.data.windows.weighting import Draws, weigh_assets
from refold.errors import DataError
from tests.data.makers import checks, module, random_bars, ready

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any)


def drawn(draws: Draws, epoch: int = 0) -> list[int]:
    return draws.windows(np.arange(len(draws)), epoch).tolist()


@settings(deadline=None, max_examples=200)
@given(counts=COUNTS, data=st.data(), epoch=st.integers(0, 100))
def test_a_window_comes_as_often_as_its_asset_weighs(counts, data, epoch):
    weights = data.draw(st.lists(st.floats(0, 4), min_size=len(counts), max_size=len(counts)).filter(any))
    draws = Draws(np.array(counts), np.array(weights), seed=1)
    if not np.array(counts) @ (np.array(weights) > 0):
        return
    times = np.bincount(drawn(draws, epoch), minlength=sum(counts))
    borders = np.cumsum([0, *counts])
    for count, weight, first in zip(counts, weights, borders, strict=False):
        if not count:
            continue
        share = max(round(weight * count), weight > 0)
        own = times[first : first + count]
        assert own.sum() == share
        assert own.min() >= share // count
        assert own.max() <= -(-share // count)


def test_every_window_comes_in_some_epoch_though_an_asset_weighs_little():
    draws = Draws(np.array([40, 10]), np.array([0.25, 1.0]), seed=0)
    seen = [set(drawn(draws, epoch)) for epoch in range(60)]
    assert all(len(each) == 20 for each in seen)
    assert set().union(*seen) == set(range(50))


def test_balanced_assets_come_equally_often():
    counts = np.array([100, 0, 10, 55])
    weights = weigh_assets("balanced", list("ABCD"), counts)
    assert (weights * counts).tolist() == pytest.approx([55, 0, 55, 55])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"APPL": 2.0}, "data.asset_weights has 'APPL'; did you mean AAPL?"),
        ({"xyz": 2.0}, "data.asset_weights has 'xyz'; there are AAPL, IBM"),
        ({"AAPL": 0, "IBM": 0}, "data.asset_weights is {'AAPL': 0, 'IBM': 0}; it leaves no window to train on"),
    ],
)
def test_mistakes_are_named(setting, message):
    with pytest.raises(DataError) as error:
        weigh_assets(setting, ["AAPL", "IBM"], np.array([10, 10]))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"asset_weights": "balance"}, "data.asset_weights is 'balance'; it must be balanced"),
        ({"asset_weights": {"A": -1.0}}, "data.asset_weights.A is -1.0; it must be at least 0"),
        ({"asset_weights": {"A": float("inf")}}, "data.asset_weights.A is inf; it must be at least 0"),
        ({"asset_weights": {"A": "two"}}, "data.asset_weights.A is 'two'; it must be a number at least 0"),
        ({"asset_weights": "balanced", "layout": "panel"}, "data.asset_weights must be null for data.layout=panel"),
        ({"shortest_window": 9}, "data.shortest_window is 9; it must be at most data.window_size, 8"),
        (
            {"shuffle_bars": True, "features": ["log_return", "window_log_price"]},
            "data.shuffle_bars is true; it must be false for window_log_price, which is relative",
        ),
        ({"shortest_window": 3, "max_masked": 3}, "data.max_masked is 3; it must be below data.shortest_window, 3"),
    ],
)
def test_wrong_settings_are_refused(others, message):
    with pytest.raises(ValueError, match=r"data\.") as error:
        module(random_bars([90]), **others)
    assert message in str(error.value)


def assets_of(data, batches) -> dict[str, int]:
    seen = [asset for batch in batches for asset in data.train_windows.assets(batch.index)]
    return {asset: seen.count(asset) for asset in sorted(set(seen))}


def test_training_draws_assets_by_weight_and_validation_does_not():
    bars = random_bars([200, 100])
    plain = ready(bars, batch_size=1)
    counts = assets_of(plain, plain.train_dataloader())
    assert counts["A"] > 3 * counts["B"]
    balanced = ready(bars, batch_size=1, asset_weights="balanced")
    share = sum(counts.values()) // 2
    assert assets_of(balanced, balanced.train_dataloader()) == {"A": share, "B": share}
    chosen = ready(bars, batch_size=1, asset_weights={"A": 0, "B": 2})
    assert assets_of(chosen, chosen.train_dataloader()) == {"B": 2 * counts["B"]}
    assert len(chosen.val_dataloader()) == len(plain.val_dataloader())


# Lengths and weights together, through the loader ---------------------------------------------------------------------

BARS = random_bars([90, 60])


@pytest.fixture(scope="module")
def train():
    """Training windows of 8 bars, some of them masked, and draws of them."""
    spoilt = BARS.with_columns(
        pl.when(pl.int_range(pl.len()) % 17 == 0).then(None).otherwise(pl.col("close")).alias("close")
    )
    data = ready(spoilt, checks=checks(missing_value="mask"), max_masked=2)
    windows = data.train_windows
    return windows, Draws(windows.per_asset, np.array([0.5, 2.5]), seed=0)


def loader(train, **others) -> WindowLoader:
    windows, draws = train
    settings = {"batch_size": 7, "shuffle": True, "seed": 0, "shortest": 3, "draws": draws}
    return WindowLoader(windows, **{**settings, **others})


def test_a_batch_takes_the_same_bars_of_each_of_its_windows(train):
    lengths, firsts = set(), set()
    many = loader(train)
    for epoch in range(20):
        many.set_epoch(epoch)
        for batch in many:
            bars = batch.windows.shape[1]
            full, mask = train[0].gather(batch.index), train[0].mask(batch.index)
            first = next(at for at in range(8 - bars + 1) if torch.equal(full[:, at : at + bars], batch.windows))
            assert torch.equal(mask[:, first : first + bars], batch.mask)
            assert batch.mask.any(dim=1).all()
            lengths.add(bars)
            firsts.add(first)
    assert lengths == set(range(3, 9))
    assert firsts == set(range(6))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_lengths_draws_and_weights_of_the_single_process(train, world_size):
    shares = [list(loader(train, world_size=world_size, rank=rank)) for rank in range(world_size)]
    for whole, *parts in zip(loader(train), *shares, strict=True):
        assert {part.windows.shape[1] for part in parts} == {whole.windows.shape[1]}
        assert sorted(number for part in parts for number in part.index.tolist()) == sorted(whole.index.tolist())
        # weight * local mean, averaged over the processes, is the mean over the whole batch
        means = [part.weight * part.windows[part.mask].mean().item() for part in parts]
        assert sum(means) / world_size == pytest.approx(whole.windows[whole.mask].mean().item(), rel=1e-5)


def test_bars_in_random_order_are_those_of_the_window_each_epoch_in_another(train):
    shuffled, orders = loader(train, shortest=None, shuffle_bars=True), set()
    for epoch in range(10):
        shuffled.set_epoch(epoch)
        for batch in shuffled:
            full, mask = train[0].gather(batch.index), train[0].mask(batch.index)
            for before, there, after, here in zip(full, mask, batch.windows, batch.mask, strict=True):
                known = {tuple(bar.tolist()): n for n, bar in enumerate(before)}
                order = [known[tuple(bar.tolist())] for bar in after]
                assert torch.equal(there[order], here)
                if len(known) == len(before):
                    assert sorted(order) == list(range(len(order)))
                    orders.add(tuple(order))
    assert len(orders) > 100


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_orders_of_bars_of_the_single_process(train, world_size):
    shares = [list(loader(train, shuffle_bars=True, world_size=world_size, rank=rank)) for rank in range(world_size)]
    for whole, *parts in zip(loader(train, shuffle_bars=True), *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.windows, whole.windows[rank::world_size])
            assert torch.equal(part.mask, whole.mask[rank::world_size])


@pytest.mark.parametrize("shuffle_bars", [False, True])
def test_resume_at_any_batch_goes_on_with_the_same_lengths_draws_and_orders(train, shuffle_bars):
    whole = loader(train, shuffle_bars=shuffle_bars)
    whole.set_epoch(5)
    expected = list(whole)
    for stop in range(1, len(expected)):
        interrupted, resumed = (loader(train, shuffle_bars=shuffle_bars) for _ in range(2))
        interrupted.set_epoch(5)
        iterator = iter(interrupted)
        for _ in range(stop):
            next(iterator)
        resumed.load_state_dict(interrupted.state_dict())
        resumed.set_epoch(5)
        rest = list(resumed)
        assert len(rest) == len(expected) - stop
        assert all(torch.equal(one.windows, two.windows) for one, two in zip(rest, expected[stop:], strict=True))


def test_validation_and_test_keep_the_longest_length_the_order_of_bars_and_each_window_once():
    data = ready(BARS, shortest_window=2, shuffle_bars=True, asset_weights="balanced")
    assert torch.equal(next(iter(data.val_dataloader())).windows[0], data.val_windows.gather(torch.tensor([0]))[0])
    for batches, windows in ((data.val_dataloader(), data.val_windows), (data.test_dataloader(), data.test_windows)):
        held = list(batches)
        assert {batch.windows.shape[1] for batch in held} == {8}
        assert [number for batch in held for number in batch.index.tolist()] == list(range(len(windows)))


def test_levels_relative_to_the_window_are_relative_to_the_bars_taken():
    data = ready(BARS, features=["window_log_price"], shortest_window=2)
    for batch in data.train_dataloader():
        assert (batch.windows[:, 0] == 0).all()


@pytest.mark.slow
def test_a_run_with_lengths_and_weights(tiny_run):
    """The model trains on batches of any length, and is measured on windows of one."""
    _, result = tiny_run("data.shortest_window=5", "data.asset_weights=balanced", "trainer.limit_train_batches=8")
    assert np.isfinite(result["metrics"]["test/reconstruction_mse"])


@pytest.mark.slow
def test_lengths_and_weights_of_two_processes_are_those_of_one(command, tiny_run, tmp_path):
    settings = ["loss=mse", "bridge.dropout=0", "bridge=latent_normalized", "teacher_forcing=constant"]
    settings += ["data.shortest_window=6", "data.asset_weights={AAPL: 2, FB: 0.5}", "data.shuffle_bars=true"]
    tiny_run(*settings, directory="one")
    done = command(*TINY, *settings, "trainer.devices=2", "hydra.run.dir=two")
    assert done.returncode == 0, done.stderr
    tables = [pl.read_csv(tmp_path / name / "metrics.csv", infer_schema_length=None) for name in ("one", "two")]
    curves = [table["train/loss"].drop_nulls().to_numpy() for table in tables]
    assert len(curves[0]) == len(curves[1]) >= 5
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
