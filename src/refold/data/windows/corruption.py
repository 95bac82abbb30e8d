"""Spoil the input of training windows; what the model has to give back is the window as it was.

Letters: B windows in a batch, T bars in a window, F features.
"""

from typing import Annotated, ClassVar

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, within
from refold.data.recipe import Recipe
from refold.data.windows.scaler import Scaler
from refold.data.windows.views import Series


class Corruption:
    """Base class: choose what of training windows the model does not get to see. By default it sees them as they are.

    Attributes:
        reads_bars: `prepare` has something to do.
    """

    reads_bars: ClassVar[bool] = False

    def prepare(self, bars: pl.DataFrame, recipe: Recipe, scaler: Scaler, series: Series, seed: int) -> None:
        """Learn what the windows are cut from.

        Args:
            bars: canonical, of the training part.
            recipe: how they become windows.
            scaler: the scale.
            series: of all parts.
            seed: of what is drawn.

        Raises:
            DataError: nothing can be spoilt in such bars.
        """

    def series(self, clean: Series, generator: np.random.Generator) -> Series:
        """Choose the series that the windows of a batch are cut from for the model.

        Args:
            clean: the series that they are cut from as the target.
            generator: of this batch of this epoch.

        Returns:
            A series of the same rows.
        """
        return clean

    def hidden(self, windows: int, bars: int, generator: np.random.Generator) -> np.ndarray | None:
        """Choose the bars that are hidden.

        Args:
            windows: B, of a batch over all processes.
            bars: T.
            generator: of this batch of this epoch.

        Returns:
            (B, T) bool, True at bars whose features are set to 0, their scaled mean; None hides nothing.
        """
        return None


class HiddenBars(Corruption):
    """Hide bars in runs of random length, as a denoising autoencoder does (Vincent et al. 2008).

    Args:
        share: of the bars that are hidden, on average, in (0, 1).
        longest: bars of a run, at most; each length from 1 on is as frequent. Runs may touch.
    """

    @checked("data.corruption")
    def __init__(
        self,
        *,
        share: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        longest: Annotated[int, at_least(1)],
    ) -> None:
        self.share = share
        self.longest = longest
        self.begins = _chance_to_begin(share, longest)

    def hidden(self, windows: int, bars: int, generator: np.random.Generator) -> np.ndarray:
        earlier = self.longest - 1  # runs that began before the window reach into it
        begins = generator.random((windows, earlier + bars)) < self.begins
        length = generator.integers(1, self.longest + 1, begins.shape)
        hidden = np.zeros((windows, bars), dtype=bool)
        for bar in range(self.longest):  # of a run, from 0
            hidden |= (begins & (length > bar))[:, earlier - bar : earlier - bar + bars]
        return hidden


def _chance_to_begin(share: float, longest: int) -> float:
    """Return the chance that a run begins at a bar so that a share of all bars is hidden.

    A bar is seen if no run of more than k bars began k bars before it, for each k: the product of 1 - chance x
    (longest - k) / longest, which falls from 1 as the chance grows.
    """
    reach = (longest - np.arange(longest)) / longest
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - np.prod(1 - middle * reach) < share else (low, middle)
    return low
