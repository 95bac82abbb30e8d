"""From a source to loaders of windows: load -> check -> features -> split -> scaler on the training part -> windows."""

import hashlib
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
import polars as pl
import torch
from lightning import LightningDataModule

from refold.bounds import at_least, checked
from refold.data import checks
from refold.data.features import Feature, find_all, longest_lookback
from refold.data.loader import WindowLoader
from refold.data.scaler import Scaler
from refold.data.split import PARTS, Interval, Part, cut
from refold.data.windows import Series, Windows
from refold.errors import DataError


class Source(Protocol):
    """Where bars come from; `str(source)` describes it."""

    def load(self, columns: Collection[str] | None = None) -> pl.DataFrame: ...


class Split(Protocol):
    """Which moments belong to which part."""

    embargo: int

    def intervals(self, calendar: pl.Series) -> list[Interval]: ...


class WindowDataModule(LightningDataModule):
    """Windows of market data for training, validation and test.

    Args: source: bars. features: names, see `refold.data.features`. window_size: bars. stride: bars between the starts
        of neighbouring windows. batch_size: windows per step over all processes. split: parts. seed: of the training
        order. path: what the source reads, for configurations that name it once; the source has it already.
    """

    # a small validation part may leave a process without a batch; that is no mistake
    allow_zero_length_dataloader_with_multiple_devices = True

    @checked("data")
    def __init__(
        self,
        *,
        source: Source,
        features: Sequence[str],
        window_size: Annotated[int, at_least(1)],
        stride: Annotated[int, at_least(1)],
        batch_size: Annotated[int, at_least(1)],
        split: Split,
        seed: int,
        path: str | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.feature_names = list(features)
        self.window_size = window_size
        self.stride = stride
        self.batch_size = batch_size
        self.split = split
        self.seed = seed
        self.scaler: Scaler | None = None
        self._windows: dict[Part, Windows] = {}

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.feature_names)

    @property
    def train_windows(self) -> Windows:
        """The windows that are trained on."""
        return self._windows["train"]

    @property
    def val_windows(self) -> Windows:
        """The windows that epochs are compared on."""
        return self._windows["val"]

    @property
    def test_windows(self) -> Windows:
        """The windows that results are reported on."""
        return self._windows["test"]

    def setup(self, stage: str | None = None) -> None:
        """Do everything, once; later calls do nothing. Raises: DataError."""
        if self._windows:
            return
        bars = checks.sort_and_check(self.source.load(needed_columns(self.feature_names)))
        features = find_all(self.feature_names, bars.columns)
        calendar = bars["timestamp"].unique().sort()
        moment = calendar.search_sorted(bars["timestamp"]).to_numpy().astype(np.int64)
        run = checks.unbroken(bars, moment)
        rows = compute(bars, features, run)
        lookback = longest_lookback(features)
        usable = position_in_run(run) >= lookback - 1
        checks.finite_features(rows, self.feature_names, usable)
        self.gap_bars = (self.window_size - 1) + (lookback - 1) + self.split.embargo
        names, starts = asset_table(rows["asset"])
        segments = cut(
            asset=np.repeat(np.arange(len(names)), np.diff(np.append(starts, rows.height))),
            run=run,
            moment=moment,
            usable=usable,
            intervals=self.split.intervals(calendar),
            gap=self.gap_bars,
        )
        self._refuse_empty(segments, usable, run)
        values = torch.from_numpy(rows.select(self.feature_names).to_numpy())
        self.scaler = self.scaler or Scaler.fit(rows_of(values, segments["train"]), self.feature_names)
        scaled = torch.where(torch.from_numpy(usable)[:, None], self.scaler.transform(values), 0.0).float()
        series = Series(scaled.contiguous(), None, rows["timestamp"], names, starts)
        self.fingerprint = fingerprint(bars)
        self._windows = {
            part: Windows(series, segments[part], window_size=self.window_size, stride=self.stride) for part in PARTS
        }
        self.description = self._describe(bars, segments)

    def _refuse_empty(self, segments: dict[Part, np.ndarray], usable: np.ndarray, run: np.ndarray) -> None:
        """Raise a DataError if the window is longer than every run of bars, or a part holds no window."""
        T = self.window_size
        longest_run = int(np.bincount(run[usable]).max()) if usable.any() else 0
        if longest_run < T:
            raise DataError(
                f"data.window_size is {T}; the longest run of bars without a hole is {longest_run}. "
                f"Choose data.window_size at most {longest_run}, or features with a shorter look-back"
            )
        for part in PARTS:
            longest = int(segments[part][:, 1].max(initial=0))
            if longest < T:
                advice = f"choose data.window_size at most {longest}, " if longest else ""
                raise DataError(
                    f"data.split leaves no windows for {part}: its longest run has {longest} bars, after the "
                    f"{self.gap_bars} that are dropped between parts, and data.window_size is {T}; {advice}give {part} "
                    f"a larger part in data.split, or bring more bars"
                )

    def _describe(self, bars: pl.DataFrame, segments: dict[Part, np.ndarray]) -> str:
        first, last = bars["timestamp"].min(), bars["timestamp"].max()
        assets = bars["asset"].n_unique()
        lines = [
            f"{self.source}: {bars.height:,} bars of {assets} asset{'s' * (assets != 1)}, {first} to {last}, "
            f"data {self.fingerprint}",
            f"features {', '.join(self.feature_names)}; {self.gap_bars} bars dropped between parts",
        ]
        for part in PARTS:
            held = np.concatenate([np.arange(start, start + count) for start, count in segments[part]])
            when = self._windows[part].series.timestamps.gather(held)
            lines.append(
                f"{part:5}  {when.min()} to {when.max()}  {len(held):>9,} bars  {len(self._windows[part]):>9,} windows "
                f"of {self.window_size} bars"
            )
        return "\n".join(lines)

    def _loader(self, part: Part) -> WindowLoader:
        self.setup()
        trainer = self.trainer
        return WindowLoader(
            self._windows[part],
            batch_size=self.batch_size,
            shuffle=part == "train",
            seed=self.seed,
            world_size=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )

    def train_dataloader(self) -> WindowLoader:
        """Shuffled batches of the training windows."""
        return self._loader("train")

    def val_dataloader(self) -> WindowLoader:
        """Batches of the validation windows, in order."""
        return self._loader("val")

    def test_dataloader(self) -> WindowLoader:
        """Batches of the test windows, in order."""
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to read the windows: scaler and feature names."""
        scaler = self.scaler.state_dict() if self.scaler else None
        return {"scaler": scaler, "feature_names": self.feature_names, "window_size": self.window_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Scale as the checkpoint did. Raises: DataError: it had other features."""
        if list(state_dict["feature_names"]) != self.feature_names:
            raise DataError(
                f"data.features is {self.feature_names}; the checkpoint was trained on {state_dict['feature_names']}"
            )
        scaler = state_dict["scaler"] and Scaler.from_state_dict(state_dict["scaler"])
        if scaler and self.scaler and scaler != self.scaler and self._windows:
            # Lightning loads after setup: read again, on the scale of the checkpoint
            self.scaler, self._windows = scaler, {}
            self.setup()
        self.scaler = scaler or self.scaler


def needed_columns(names: Sequence[str]) -> set[str] | None:
    """Columns that the features are computed from."""
    return {
        column for feature in find_all(names, ("open", "high", "low", "close", "volume")) for column in feature.columns
    }


def compute(bars: pl.DataFrame, features: Sequence[Feature], run: np.ndarray) -> pl.DataFrame:
    """The features of each bar, from bars of its own unbroken run only. Args: bars: sorted; run: (N,), its run."""
    keyed = bars.with_columns(pl.Series("run", run))
    return keyed.select(
        "asset", "timestamp", *(feature.expression.over("run").alias(feature.name) for feature in features)
    )


def position_in_run(run: np.ndarray) -> np.ndarray:
    """(N,) bars of the same run before each bar."""
    rows = np.arange(len(run))
    return rows - np.maximum.accumulate(np.where(np.diff(run, prepend=run[:1] - 1) != 0, rows, 0))


def asset_table(assets: pl.Series) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the assets and the first row of each, from the sorted asset column."""
    runs = assets.rle().struct.unnest()
    lengths = runs["len"].to_numpy().astype(np.int64)
    return tuple(runs["value"].to_list()), np.cumsum(lengths) - lengths


def rows_of(values: torch.Tensor, segments: np.ndarray) -> torch.Tensor:
    """The rows that lie in segments, one after another."""
    return torch.cat([values[start : start + count] for start, count in segments.tolist()])


def fingerprint(bars: pl.DataFrame) -> str:
    """Twelve hexadecimal digits of a hash of all values, for "was this trained on the same data?"."""
    digest = hashlib.blake2b(digest_size=6)
    for column in bars:
        digest.update(f"{column.name} {column.dtype}".encode())
        if column.dtype == pl.String:
            runs = column.rle().struct.unnest()
            digest.update(
                "\n".join(f"{value} {count}" for value, count in zip(runs["value"], runs["len"], strict=True)).encode()
            )
        else:
            digest.update(np.ascontiguousarray(column.to_physical().to_numpy()))
    return digest.hexdigest()
