"""Turn a source into loaders of windows, for Lightning and for plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from lightning import LightningDataModule

from refold.bounds import at_least, checked
from refold.data.bars.checks import Checks
from refold.data.bars.entries import Entry, find_feature
from refold.data.long import cache as caching
from refold.data.long.ordered import read_sorted
from refold.data.part_bars import part_bars
from refold.data.pipeline import Prepared, prepare
from refold.data.recipe import (
    Fold,
    Layout,
    MaxMasked,
    MinAssets,
    Overnight,
    Recipe,
    Scale,
    ScaleLookback,
    Stride,
    WindowSize,
)
from refold.data.sources.source import Source, batches_of
from refold.data.windows.corruption import Corruption
from refold.data.windows.loader import WindowLoader
from refold.data.windows.scaler import Scaler
from refold.data.windows.split import PARTS, Part, SplitRule
from refold.data.windows.views import Windows
from refold.data.windows.weighting import AssetWeights, Draws, refuse_weights, weigh_assets
from refold.errors import DataError


class WindowDataModule(LightningDataModule):
    """Prepare windows of market data for training, validation and test.

    Args:
        source: where the bars come from.
        features: entries; see `refold.data.bars.entries`. None chooses them from the columns of the bars.
        layout: "per_asset" makes each asset a series of its own, "panel" makes all assets one series.
        min_assets: share of the assets that a moment of a panel needs to count as present, in (0, 1].
        window_size: T, bars in a window, at least 1.
        shortest_window: bars of the shortest training batch, at most window_size; each batch has a length of its own.
            None gives all batches window_size bars.
        shuffle_bars: True gives the bars of a training window in a random order, each epoch another.
        corruption: what of a training window the model does not get to see; None: it sees all bars.
        stride: bars between the starts of neighbouring windows, at least 1.
        asset_weights: "balanced" draws as many training windows of each asset, a mapping gives weights by name, None
            draws each window once in an epoch.
        max_masked: bars without values that a window may contain in a row, at least 0, below the shortest window.
        batch_size: windows per step over all processes, at least 1.
        batch_size_per_device: windows per step of each process, at least 1, in place of `batch_size`; the learning rate
            follows (`refold.training.lr_schedule.scale_rate`). None leaves it at `batch_size`.
        split: divides the calendar into parts.
        fold: number of the fold of the split, from 0.
        checks: refuse, mask or drop faulty bars.
        overnight: what becomes of the first bar of a session; see `refold.data.recipe.Recipe`.
        scale: "pooled" scales all assets by the training rows of all, "per_asset" each by its own, "trailing" each
            value by the `scale_lookback` bars before it. None chooses; see `refold.data.scale_choice`.
        scale_lookback: bars, at least 2.
        cache: folder to build the series in and to map it from; None keeps the series in memory.
        device: "cpu" keeps the series in main memory, "auto" copies it to the trainer's GPU if it takes at most a
            quarter of the free memory there.
        seed: of the training order, at least 0.
        horizon: P, bars after each window that a predictor learns to predict, at least 0. Windows, parts and the bars
            dropped between parts make room for them.
        path: ignored; configurations name it once for the source, which has it already.
        uri: ignored, as path.

    Raises:
        ValueError: a setting is out of bounds, or does not go with another one.
    """

    # a small validation part may leave a process without a batch; that is no mistake
    allow_zero_length_dataloader_with_multiple_devices = True

    @checked("data")
    def __init__(
        self,
        *,
        source: Source,
        features: Sequence[str | Mapping[str, Any]] | None,
        layout: Layout,
        min_assets: MinAssets,
        window_size: WindowSize,
        shortest_window: Annotated[int | None, at_least(1)],
        shuffle_bars: bool,
        corruption: Corruption | None,
        stride: Stride,
        asset_weights: AssetWeights | None,
        max_masked: MaxMasked,
        batch_size: Annotated[int, at_least(1)],
        batch_size_per_device: Annotated[int | None, at_least(1)],
        split: SplitRule,
        fold: Fold,
        checks: Checks,
        overnight: Overnight,
        scale: Scale | None,
        scale_lookback: ScaleLookback,
        cache: str | None,
        device: Literal["auto", "cpu"],
        seed: Annotated[int, at_least(0)],
        horizon: Annotated[int, at_least(0)] = 0,
        path: str | None = None,
        uri: str | None = None,
    ) -> None:
        super().__init__()
        if cache is not None and not cache.strip():
            raise ValueError(f"data.cache is {cache!r}; it must be a folder, or null to keep the series in memory")
        if shortest_window == 1 and overnight == "mask" and window_size > 1:  # a window of one masked bar
            raise ValueError("data.shortest_window is 1; it must be at least 2 with data.overnight=mask")
        if shortest_window is not None and shortest_window > window_size:
            raise ValueError(
                f"data.shortest_window is {shortest_window}; it must be at most data.window_size, {window_size}"
            )
        key, shortest = (
            ("window_size", window_size) if shortest_window is None else ("shortest_window", shortest_window)
        )
        if max_masked >= shortest:  # a window without a present bar has nothing to learn from
            raise ValueError(f"data.max_masked is {max_masked}; it must be below data.{key}, {shortest}")
        refuse_weights(asset_weights, layout)
        if scale not in (None, "pooled") and layout == "panel":
            raise ValueError(
                f"data.scale is {scale}; it must be pooled for data.layout=panel: each asset is a "
                f"column of its own there, and each column has a scale of its own"
            )
        self.source = source
        entries = None if features is None else tuple(features)
        if checks.kind == "prices" and entries is not None:
            _refuse_shuffled(entries, shuffle_bars)
        self.recipe = Recipe(
            entries, layout, min_assets, window_size, max_masked, split, fold, checks, overnight, scale, scale_lookback,
            horizon,
        )  # fmt: skip
        self._asked = self.recipe
        self.window_size = window_size
        self.shortest_window = shortest_window
        self.shuffle_bars = shuffle_bars
        self.corruption = corruption
        self.stride = stride
        self.asset_weights: AssetWeights | None = asset_weights
        self.batch_size = batch_size
        self.batch_size_per_device = batch_size_per_device
        self.cache = None if cache is None else Path(cache)
        self.device = device
        self.seed = seed
        self.scaler: Scaler | None = None
        self._prepared: Prepared | None = None
        self._windows: dict[Part, Windows] = {}

    @property
    def feature_names(self) -> list[str]:
        """Names of the F columns of a window; those of a panel are like `AAPL/log_return`."""
        return list(self._ready().column_names) if self.recipe.layout == "panel" else list(self.recipe.features)

    @property
    def num_features(self) -> int:
        """Number of columns of a window, F."""
        return len(self.feature_names)

    def global_batch_size(self, processes: int) -> int:
        """Return the windows of a batch over all processes of a job.

        Args:
            processes: their number.
        """
        return self.batch_size if self.batch_size_per_device is None else self.batch_size_per_device * processes

    @property
    def train_windows(self) -> Windows:
        """Windows to train on."""
        return self.windows("train")

    @property
    def val_windows(self) -> Windows:
        """Windows that epochs are compared on."""
        return self.windows("val")

    @property
    def test_windows(self) -> Windows:
        """Windows that results are reported on."""
        return self.windows("test")

    def windows(self, part: Part) -> Windows:
        """Return the windows of a part, and prepare the data first if needed.

        Args:
            part: train, val or test.
        """
        self.setup()
        return self._windows[part]

    def segments(self, part: Part) -> np.ndarray:
        """Return the unbroken runs of a part.

        Args:
            part: train, val or test.

        Returns:
            (S, 2) int64, first row and number of rows of each run, in the series of the windows.
        """
        return self._ready().segments[part]

    @property
    def gap_bars(self) -> int:
        """Count the bars that each asset loses between parts: (T - 1) + P + (look-back - 1) + embargo."""
        return self._ready().gap_bars

    @property
    def fingerprint(self) -> str:
        """Return twelve hexadecimal digits of a hash of the bars."""
        return self._ready().fingerprint

    @property
    def findings(self) -> pl.DataFrame:
        """Return the findings of the checks; see `refold.data.bars.findings.FINDINGS`."""
        return self._ready().findings

    @property
    def windows_lost(self) -> dict[str, Any]:
        """Count the windows (at stride 1) that holes and masked bars cost, with the policies that took part."""
        return self._ready().windows_lost

    @property
    def description(self) -> str:
        """Describe source, bars, features, findings, parts and windows in a few lines."""
        prepared = self._ready()
        windows = ", ".join(f"{part} {len(self._windows[part]):,}" for part in PARTS)
        ahead = f" with the {self.recipe.horizon} after each" if self.recipe.horizon else ""
        return (
            f"{self.source} (data {prepared.fingerprint}): {prepared.summary}\n"
            f"windows of {self.window_size} bars{ahead}: {windows}"
        )

    def prepare_data(self) -> None:
        """Build the cache, if data.cache names one. Lightning calls this on one process and lets the others wait."""
        folder = None if self._prepared is not None else self._cache_folder()
        if folder is not None and not folder.is_dir():
            try:
                caching.write_folder(self._build, folder)
            except OSError as error:
                raise DataError(f"data.cache is {str(self.cache)!r}; it cannot be written: {error}") from None

    def setup(self, stage: str | None = None) -> None:
        """Read, check, split and scale the bars, once; later calls do nothing.

        Args:
            stage: ignored; all parts are prepared at once.

        Raises:
            DataError: the data cannot be read, a check refuses it, or it gives no windows.
        """
        if self._prepared is not None:
            return
        folder = self._cache_folder()
        if folder is None:
            bars = read_sorted([self.source.load()], self.recipe.checks)
            prepared = prepare(bars, self.recipe, self.scaler)
        else:
            self.prepare_data()
            prepared = caching.read(folder)
        _refuse_shuffled(prepared.entries, self.shuffle_bars)
        checks = self.recipe.checks.knowing(prepared.timetables)
        self.recipe = replace(self.recipe, entries=prepared.entries, checks=checks, scale=prepared.scaler.kind)
        self._prepared = prepared
        self.scaler = prepared.scaler
        self._windows = {
            part: Windows(
                prepared.series,
                prepared.segments[part],
                window_size=self.window_size,
                stride=self.stride,
                horizon=self.recipe.horizon,
            )
            for part in PARTS
        }
        if self.corruption is not None and self.corruption.reads_bars:
            train = part_bars(self.source.load(), self.recipe)["train"]
            self.corruption.prepare(train, self.recipe, self.scaler, prepared.series, self.seed)

    def _build(self, folder: Path) -> Prepared:
        """Read the source some rows at a time, and build the arrays of the series in a folder."""
        with TemporaryDirectory(dir=folder) as scratch:
            bars = read_sorted(batches_of(self.source), self.recipe.checks, Path(scratch))
            return prepare(bars, self.recipe, self.scaler, folder)

    def _cache_folder(self) -> Path | None:
        if self.cache is None:
            return None
        identity = self.source.identity()
        if identity is None:
            raise DataError(f"data.cache is {str(self.cache)!r}; {self.source} may change unseen, so it must be null")
        return self.cache / caching.key(identity, self._asked, self.scaler)

    def _ready(self) -> Prepared:
        self.setup()
        assert self._prepared is not None
        return self._prepared

    def _loader(self, part: Part) -> WindowLoader:
        self.setup()
        self._move_to_gpu()
        trainer, training = self.trainer, part == "train"
        return WindowLoader(
            self._windows[part],
            batch_size=self.global_batch_size(trainer.world_size if trainer else 1),
            shuffle=training,
            seed=self.seed,
            shortest=self.shortest_window if training else None,
            shuffle_bars=self.shuffle_bars and training,
            corruption=self.corruption if training else None,
            draws=self._draws() if training else None,
            world_size=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )

    def _draws(self) -> Draws | None:
        if self.asset_weights is None:
            return None
        windows = self._windows["train"]
        weights = weigh_assets(self.asset_weights, windows.series.asset_names, windows.per_asset)
        return Draws(windows.per_asset, weights, seed=self.seed)

    def _move_to_gpu(self) -> None:
        """Copy the series to the trainer's GPU if data.device allows it and it fits; then a batch never leaves it."""
        if self.device == "cpu" or not self.trainer:
            return
        device = self.trainer.strategy.root_device
        series = self._windows["train"].series
        if device.type != "cuda" or series.values.device == device:
            return
        if series.values.nbytes <= torch.cuda.mem_get_info(device)[0] / 4:
            moved = series.to(device)
            for windows in self._windows.values():
                windows.series = moved

    def train_dataloader(self) -> WindowLoader:
        """Return shuffled batches of the training windows."""
        return self._loader("train")

    def val_dataloader(self) -> WindowLoader:
        """Return batches of the validation windows, in order."""
        return self._loader("val")

    def test_dataloader(self) -> WindowLoader:
        """Return batches of the test windows, in order."""
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to read the windows: scaler, features and window size."""
        scaler = self.scaler.state_dict() if self.scaler else None
        return {
            "scaler": scaler,
            "features": list(self.recipe.features),
            "entries": [entry if isinstance(entry, str) else dict(entry) for entry in self.recipe.entries or ()],
            "timetables": self._prepared and self._prepared.timetables.to_plain(),
            "window_size": self.window_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Scale as the checkpoint did.

        Args:
            state_dict: scaler, features and window size of the checkpoint.

        Raises:
            DataError: the checkpoint was trained on other features.
        """
        features = list(self.recipe.features)
        if list(state_dict["features"]) != features:
            raise DataError(f"data.features is {features}; the checkpoint was trained on {state_dict['features']}")
        scaler = state_dict["scaler"] and Scaler.from_state_dict(state_dict["scaler"])
        if scaler and self._prepared and scaler != self.scaler:
            # Lightning loads after setup: prepare again, on the scale of the checkpoint
            self.scaler, self._prepared = scaler, None
            self.setup()
        self.scaler = scaler or self.scaler


def _refuse_shuffled(entries: Sequence[Entry], shuffle_bars: bool) -> None:
    """Raise a ValueError for bars in a random order with a feature that is relative to the first of them."""
    if relative := [feature.name for feature in map(find_feature, entries) if shuffle_bars and feature.relative]:
        raise ValueError(
            f"data.shuffle_bars is true; it must be false for {relative[0]}, which is relative to the first bar"
        )
