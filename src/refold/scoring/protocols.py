"""Interfaces that other packages implement to be scored or measured here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from refold.data import Scaler, WindowDataModule
    from refold.data.bars.entries import Entry
    from refold.models import Autoencoder
    from refold.scoring.detector import Detector


class TrainedRun(Protocol):
    """The parts of a run with which bars are scored, or which are exported; `refold.load_run` gives one."""

    directory: Path
    config: "DictConfig"
    autoencoder: "Autoencoder"
    scaler: "Scaler"
    features: list[str]
    entries: "Sequence[Entry]"
    detector: "Detector | None"

    @property
    def result(self) -> dict[str, Any]:
        """The measures of the run's end; empty if it did not come to its end."""
        ...


class Scorer(Protocol):
    """A scorer of bars. The model, its baselines and the rules are scorers.

    A scorer is fitted to the bars of the training and validation parts and scores those of any other. Bars are
    canonical, sorted by asset, then time.
    """

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Fit the scorer to training and validation bars.

        Args:
            train: canonical bars of the training part, free of errors.
            val: canonical bars of the validation part, free of errors.

        Returns:
            The scorer itself.
        """
        ...

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Score each bar.

        Args:
            bars: N canonical bars.

        Returns:
            (N,) float64, one score for each row in its order; larger is stranger, NaN where there is no score.
        """
        ...


class Evaluation(Protocol):
    """A measurement that an experiment adds at the end of a run, beside the reconstruction error."""

    def run(self, detector: "Detector", data: "WindowDataModule", *, seed: int) -> dict[str, Any]:
        """Measure a trained model.

        Args:
            detector: fitted.
            data: the data module of the run, set up.
            seed: seed of all that is drawn.

        Returns:
            Plain values for result.json.
        """
        ...

    def metrics(self, measured: dict[str, Any]) -> dict[str, float]:
        """Pick the numbers that loggers get.

        Args:
            measured: as `run` returns it.

        Returns:
            Logged name -> value.
        """
        ...
