"""Codes of all windows of a table, a piece at a time: memory does not grow with it.

Letters: N windows, B of them in a batch, T bars, K assets of a panel (1 otherwise), Z numbers of a code.
"""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import torch

from refold.data import Windows
from refold.data.long.ordered import OrderedBars
from refold.scoring.detector import Detector
from refold.scoring.scan import PIECE, Piece, pieces


def scan_latents(
    detector: Detector, bars: OrderedBars, *, piece: int = PIECE, progress: Callable[[int], None] = lambda rows: None
) -> Iterator[pl.DataFrame]:
    """Encode the windows of bars of any number: one row for each bar that is the last of a window.

    Args:
        detector: holds the model and the recipe of its windows.
        bars: sorted by asset, then time.
        piece: rows at a time.
        progress: gets the number of rows that are done.

    Yields:
        Timestamp and asset of a window's last bar ("panel" for a panel), and its code, z_0 to z_{Z-1}, float32.

    Raises:
        DataError: a check refuses bars.
    """
    for here in pieces(detector, bars, piece):
        yield _encoded(detector, here)
        progress(here.kept.stop - here.kept.start)


def _encoded(detector: Detector, here: Piece) -> pl.DataFrame:
    series, T = here.made.series, detector.recipe.window_size
    windows = Windows(series, here.made.segments, window_size=T, stride=1)
    last = windows.starts(np.arange(len(windows))) + T - 1
    places = here.made.origin[last]  # (N, K) rows of the piece, -1 for none: an absent bar ends no window
    asked = ((places >= here.kept.start) & (places < here.kept.stop)).any(axis=1)
    number, last = np.flatnonzero(asked), last[asked]
    starts = range(0, len(number), detector.batch)
    batches = [detector.encode(windows, number[start : start + detector.batch]) for start in starts]
    codes = torch.cat(batches).numpy() if batches else np.empty((0, detector.autoencoder.code_size), np.float32)
    return pl.DataFrame(
        {
            "timestamp": pl.Series(series.times[last]).cast(series.time_dtype),
            "asset": pl.Series(series.assets(last), dtype=pl.String),
            **{f"z_{n}": column for n, column in enumerate(codes.T)},
        }
    )
