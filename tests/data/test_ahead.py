"""Bars after windows, for a predictor to learn: in the part of their window, and never where another looks back."""

import numpy as np
import pytest
import torch

from refold.data import WindowLoader
from refold.data.windows.split import ByDate, PurgedKFold, WalkForward
from refold.errors import DataError
from tests.data.makers import checks, fractions, random_bars, ready, with_value

BARS = random_bars([220, 200, 220])
DAYS = BARS["timestamp"].unique().sort()
SPLITS = {
    "fraction": (fractions(), 0),
    "date": (ByDate(val_start=str(DAYS[100]), test_start=str(DAYS[150]), embargo=0), 0),
    "walk_forward": (WalkForward(folds=2, test_fraction=0.5, train_moments=None, embargo=0), 1),
    "purged_kfold": (PurgedKFold(folds=4, embargo=0), 1),
}
LOOKBACK = 6  # trailing_volatility_5 reads five returns, and each of them the close before


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
@pytest.mark.parametrize("split", SPLITS)
def test_no_bar_of_a_part_is_predicted_or_looked_back_on_by_another(split, layout):
    """The rows that windows, the bars after them and their look-back touch are those of one part alone."""
    rule, fold = SPLITS[split]
    settings = {"split": rule, "fold": fold, "layout": layout, "features": ["log_return", "trailing_volatility_5"]}
    data = ready(BARS, horizon=7, **settings)
    touched = {}
    for part in ("train", "val", "test"):
        windows = data.windows(part)
        starts = windows.starts(np.arange(len(windows)))
        assert len(starts) > 5
        reach = np.arange(1 - LOOKBACK, windows.window_size + windows.horizon)
        touched[part] = {int(row) for row in (starts[:, None] + reach).ravel()}
        bars, mask = windows.ahead(np.arange(len(windows)))
        rows = starts[:, None] + windows.window_size + np.arange(7)
        assert torch.equal(bars, windows.series.values[torch.from_numpy(rows)])
        assert mask is None or torch.equal(mask, windows.series.present[torch.from_numpy(rows)])
        asset = np.searchsorted(windows.series.asset_starts, np.stack([starts, rows[:, -1]]), side="right")
        assert (asset[0] == asset[1]).all()
    assert not touched["train"] & touched["val"]
    assert not touched["val"] & touched["test"]
    assert not touched["train"] & touched["test"]
    assert data.gap_bars == (8 - 1) + 7 + (LOOKBACK - 1)
    assert ready(BARS, **settings).gap_bars == data.gap_bars - 7


def test_the_scale_is_the_one_without_a_horizon():
    with_horizon, without = (ready(BARS, horizon=horizon) for horizon in (5, 0))
    assert with_horizon.scaler == without.scaler
    assert len(without.train_windows) - len(with_horizon.train_windows) == 5 * 3
    assert next(iter(without.train_dataloader())).ahead is None


@pytest.mark.parametrize("shortest", [None, 4])
def test_processes_share_the_bars_after_a_batch_and_their_weight(shortest):
    """Also in batches of another length: they are the bars right after the shortened windows."""
    holes = [*range(10, 200, 14), *range(17, 200, 31)]
    bars = with_value(random_bars([200]), holes, "close", None)
    data = ready(bars, checks=checks(missing_value="mask"), max_masked=3, horizon=2, shortest_window=shortest)
    settings = {"batch_size": 8, "shuffle": True, "seed": 0, "shortest": shortest}
    whole = WindowLoader(data.train_windows, **settings)
    shares = [WindowLoader(data.train_windows, world_size=3, rank=rank, **settings) for rank in range(3)]
    values = data.train_windows.series.values
    for number in range(4):
        batch, parts = whole.batch(number), [loader.batch(number) for loader in shares]
        assert batch.ahead.weight == 1.0
        order, places = torch.cat([part.index for part in parts]).argsort(), batch.index.argsort()
        for name in ("bars", "mask"):
            joined = torch.cat([getattr(part.ahead, name) for part in parts])
            assert torch.equal(joined[order], getattr(batch.ahead, name)[places])
        present = [float(part.ahead.mask.sum()) for part in parts]
        assert [part.ahead.weight for part in parts] == pytest.approx([3 * n / sum(present) for n in present])
        T = batch.windows.shape[1]
        for window, after in zip(batch.windows, batch.ahead.bars, strict=True):
            first = next(row for row in range(len(values) - T) if torch.equal(values[row : row + T], window))
            assert torch.equal(values[first + T : first + T + 2], after)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"horizon": 85},
            "data.window_size is 8 and predictor.horizon 85, together 93; the longest run of bars without a hole, "
            "after the look-back of the features, is 89: choose data.window_size at most 4, ",
        ),
        ({"horizon": 89}, "is 89: choose predictor.horizon at most 81, choose features with a shorter look-back"),
        ({"horizon": 60}, "and predictor.horizon 60, together 68; choose a smaller predictor.horizon, or give "),
        (
            {"horizon": 6, "layout": "panel"},
            "data.split leaves no windows for val: its longest run has 4 bars, after the 14 that are dropped between "
            "parts, and data.window_size is 8 and predictor.horizon 6, together 14; data.window_size=",
        ),
    ],
)
def test_parts_too_short_for_window_and_horizon_are_named(settings, message):
    with pytest.raises(DataError) as error:
        ready(random_bars([90]), **settings)
    assert message in str(error.value)
