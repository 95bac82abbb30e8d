"""Windows to look at: those around the strangest events."""

import numpy as np
import polars as pl

from refold.data import Windows
from refold.data.pipeline import whole
from refold.report.page import WindowExample
from refold.scoring.detector import Detector
from refold.scoring.scan import context


def worst_windows(detector: Detector, bars: pl.DataFrame, events: pl.DataFrame, count: int = 6) -> list[WindowExample]:
    """Windows around the peaks of the strangest events. Args: bars: canonical, `in_order`. events: as `group` gives."""
    T = detector.recipe.window_size
    reach = sum(context(detector))
    asset, time = bars["asset"].cast(pl.String), bars["timestamp"]
    found = []
    for event in events.sort("score", descending=True).head(count).iter_rows(named=True):
        if detector.recipe.layout == "panel":
            moments = time.unique().sort()
            place = int(moments.search_sorted(event["peak"]))
            near = bars.filter(time.is_in(moments[max(0, place - reach) : place + reach].implode()))
        else:
            place = int(((asset == event["asset"]) & (time == event["peak"])).arg_max())
            near = bars[max(0, place - reach) : place + reach].filter(pl.col("asset").cast(pl.String) == event["asset"])
        made = whole(near, detector.recipe, detector.scaler)
        at = near.select((pl.col("timestamp") == event["peak"]) & (pl.col("asset").cast(pl.String) == event["asset"]))
        row = int(np.flatnonzero((made.origin == at.to_series().arg_max()).any(axis=1))[0])
        windows = Windows(made.series, made.segments, window_size=T, stride=1)
        starts = windows.starts(np.arange(len(windows)))
        if not len(starts):
            continue
        number = np.abs(starts + T // 2 - row).argmin(keepdims=True)  # the window that has the peak nearest its middle
        truth, reconstruction = (part[0].numpy() for part in detector.reconstruct(windows, number))
        when = windows.timestamps(number)[0]
        found.append(WindowExample(event["asset"], f"{event['kind']}, {event['peak']}", when, truth, reconstruction))
    return found
