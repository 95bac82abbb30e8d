import itertools
import re
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from refold.data.windows.split import ByDate
from refold.errors import DataError
from tests.data.makers import ALL_FEATURES, fractions, module, random_bars, ready, with_value


def test_windows_are_scaled_features_of_one_asset_in_one_part():
    bars = random_bars([200, 150])
    data = ready(bars)
    index = np.arange(len(data.val_windows))
    windows, when, asset = (
        data.val_windows.gather(index),
        data.val_windows.timestamps(index),
        data.val_windows.assets(index),
    )
    returns = bars.with_columns(pl.col("close").log().diff().over("asset").alias("r"))
    lookup = {(row["asset"], np.datetime64(row["timestamp"])): row["r"] for row in returns.iter_rows(named=True)}
    for window, stamps, name in zip(windows, when, asset, strict=True):
        expected = [lookup[name, stamp] for stamp in stamps]
        assert data.scaler.inverse_transform(window)[:, 0].tolist() == pytest.approx(expected, abs=1e-7)
        assert np.all(np.diff(stamps).astype(int) == 1)


def test_training_rows_alone_set_the_scale():
    data = ready(random_bars([200]))
    rows = np.unique(data.train_windows.rows(np.arange(len(data.train_windows))))
    scaled = data.train_windows.series.values[rows]
    assert scaled.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert scaled.std(dim=0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("change", ["shift", "scale", "replace", "remove"])
def test_no_look_ahead(change):
    """Whatever happens to the bars after a date, nothing before it changes: features, scale, windows."""
    bars = random_bars([200, 150])
    calendar = bars["timestamp"].unique().sort()
    boundary = fractions().intervals(calendar, 0)[1].end  # validation ends here
    future = pl.col("timestamp") >= calendar[boundary + 30]  # beyond the bars that are dropped between parts
    price = pl.col("open", "high", "low", "close", "volume")
    other = {
        "shift": bars.with_columns(pl.when(future).then(price + 100).otherwise(price)),
        "scale": bars.with_columns(pl.when(future).then(price * 1e6).otherwise(price)),
        "replace": bars.with_columns(pl.when(future).then(price.reverse()).otherwise(price)),
        "remove": bars.filter(pl.col("timestamp") != calendar[boundary + 30]),
    }[change]
    # by date: shares of the calendar move when a day is missing
    split = ByDate(val_start=str(calendar[120]), test_start=str(calendar[boundary]), embargo=0)
    first = ready(bars, features=ALL_FEATURES, split=split)
    second = ready(other, features=ALL_FEATURES, split=split)
    assert torch.equal(first.scaler.mean, second.scaler.mean)
    assert torch.equal(first.scaler.std, second.scaler.std)
    for part in ("train_windows", "val_windows"):
        before, after = getattr(first, part), getattr(second, part)
        index = np.arange(len(before))
        assert len(before) == len(after)
        assert torch.equal(before.gather(index), after.gather(index))
        assert np.array_equal(before.timestamps(index), after.timestamps(index))
    index = np.arange(min(len(first.test_windows), len(second.test_windows)))
    assert not torch.equal(first.test_windows.gather(index), second.test_windows.gather(index))  # the change is felt


def test_windows_do_not_cross_a_missing_day():
    bars = random_bars([120, 120])
    missing = bars["timestamp"][50]
    data = ready(bars.filter((pl.col("asset") != "A") | (pl.col("timestamp") != missing)))
    index = np.arange(len(data.train_windows))
    gaps = np.diff(data.train_windows.timestamps(index), axis=1).astype(int)
    assert (gaps == 1).all()
    whole = ready(bars)
    # runs of A: the 8 windows that held the day are gone, and 1 bar of look-back after it makes 1 more go
    assert len(whole.train_windows) - len(data.train_windows) == 8 + 1


def test_parts_are_the_gap_apart():
    data = ready(random_bars([200]), features=["trailing_volatility_5"])
    assert data.gap_bars == 7 + 5
    ends = [data.windows(part).timestamps([0, len(data.windows(part)) - 1]) for part in ("train", "val", "test")]
    for early, late in itertools.pairwise(ends):
        assert late[0, 0] - early[1, -1] == np.timedelta64(13, "D")


def test_state_holds_scaler_and_features_and_scales_other_data(tmp_path):
    data = ready(random_bars([200]))
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    later = module(random_bars([200], seed=1))
    later.load_state_dict(state)
    later.setup()
    assert torch.equal(later.scaler.mean, data.scaler.mean)
    own = ready(random_bars([200], seed=1))
    assert not torch.equal(own.scaler.mean, data.scaler.mean)
    late = ready(random_bars([200], seed=1))
    late.load_state_dict(state)  # after setup, as Lightning does
    assert torch.equal(late.test_windows.gather([0]), later.test_windows.gather([0]))


def test_state_of_other_features_is_refused():
    data = ready(random_bars([200]))
    with pytest.raises(
        DataError, match=r"data\.features is .*the checkpoint was trained on \['log_return', 'parkinson"
    ):
        module(random_bars([200]), features=["log_return"]).load_state_dict(data.state_dict())


def test_fingerprint_is_of_the_values():
    bars = random_bars([200])
    changed = bars.with_columns(
        pl.when(pl.int_range(200) == 77).then(pl.col("close") * 1.0000001).otherwise(pl.col("close")).alias("close")
    )
    assert ready(bars).fingerprint == ready(bars).fingerprint != ready(changed).fingerprint
    renamed = bars.with_columns(pl.lit("Z").alias("asset"))
    assert ready(renamed).fingerprint != ready(bars).fingerprint


def test_description_names_parts_dates_and_windows():
    data = ready(random_bars([200, 150]))
    assert "350 bars of 2 assets, one series each, 2020-01-01 to 2020-07-18" in data.description
    assert f"val {len(data.val_windows)}" in data.description


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b.head(1), "the data has 1 usable row"),
        (lambda b: pl.concat([b, b.tail(1)]), "A 2020-03-30: an asset has one bar at a time"),
        (
            lambda b: with_value(b, [4], "close", None),
            "A 2020-01-05: a bar must have all values of the table; it has open 5",
        ),
        (
            lambda b: with_value(b, [4], "close", float("nan")),
            "A 2020-01-05: a value must be a finite number; it has open 5",
        ),
        (
            lambda b: with_value(b, range(4), "low", 0),
            "A 2020-01-01: prices must be above 0 and volumes at least 0; it has open 49.982",
        ),
        (
            lambda b: b.with_columns(low=pl.lit(5.0), high=pl.lit(500.0)),
            "data.features has parkinson_range, which is constant (2.76",
        ),
        (lambda b: b.drop("high"), "data.features has parkinson_range, which needs high; the source has only"),
    ],
)
def test_spoilt_bars_are_named(spoil, message):
    with pytest.raises(DataError) as error:
        ready(spoil(random_bars([90])))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"window_size": 500},
            "data.window_size is 500; the longest run of bars without a hole, after the look-back of the features, "
            "is 89: choose data.window_size at most 89",
        ),
        (
            {"split": fractions(0.9, 0.05)},
            "data.split leaves no windows for val: its longest run has 0 bars, after the 8 that are dropped",
        ),
        (
            {"split": fractions(0.6, 0.17)},
            "val: its longest run has 7 bars, after the 8 that are dropped between parts, and data.window_size is 8; "
            "data.window_size=5 leaves windows for all parts",
        ),
        ({"split": fractions(0.5, 0.5)}, "data.split leaves no windows for test"),
    ],
)
def test_parts_without_windows_are_named(settings, message):
    with pytest.raises(DataError) as error:
        ready(random_bars([90]), **settings)
    assert message in str(error.value)


def test_bounds_of_settings():
    with pytest.raises(ValueError, match=r"data\.window_size is 0; it must be at least 1"):
        module(random_bars([90]), window_size=0)
    with pytest.raises(ValueError, match=r"data\.cache is ''; it must be a folder, or null"):
        module(random_bars([90]), cache="")


class Recorder(LightningModule):
    """Trains one number and remembers which windows it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_number):
        self.seen.append(batch.index.tolist())
        return ((batch.windows - self.weight) ** 2).mean() * batch.weight

    def validation_step(self, batch, batch_number):
        assert batch.windows.shape[1:] == (8, 2)  # of full length, whatever training does

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(folder, *, resume=None, data: dict | None = None, **settings) -> Recorder:
    recorder = Recorder()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
        **settings,
    )
    windows = module(random_bars([100]), batch_size=8, **(data or {}))
    trainer.fit(recorder, datamodule=windows, ckpt_path=resume, weights_only=True)
    return recorder


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*dirpath has changed", "ignore:Checkpoint directory"
)
@pytest.mark.parametrize("data", [{}, {"shortest_window": 3, "asset_weights": {"A": 1.0}}])
def test_lightning_resumes_at_every_step_with_the_windows_not_yet_seen(tmp_path, data):
    whole = fit(tmp_path, max_epochs=2, data=data)
    steps = len(whole.seen)
    assert steps == 12
    assert whole.seen[:6] != whole.seen[6:]  # each epoch has its own order
    for step in range(1, steps):
        resumed = fit(tmp_path / f"again{step}", resume=tmp_path / f"step={step}.ckpt", max_epochs=2, data=data)
        assert resumed.seen == whole.seen[step:], step
        assert torch.equal(resumed.weight, whole.weight)


def test_days_of_makers_are_consecutive():
    days = random_bars([30])["timestamp"]
    assert set(days.diff().drop_nulls()) == {timedelta(days=1)}


def test_a_short_file_is_refused_with_features_and_a_window_that_work():
    bars = random_bars([40])
    with pytest.raises(
        DataError, match=r"is 20: .*\. 'data\.features=\[(.*)\]' data\.window_size=(\d+) leaves"
    ) as found:
        ready(bars, features=None, window_size=32)
    names, window = re.search(r"features=\[(.*)\]' data\.window_size=(\d+)", str(found.value)).groups()
    assert len(ready(bars, features=names.split(","), window_size=int(window)).test_windows)
