"""Windows around the strangest events: the right asset, the right bars, in the units of the features."""

import numpy as np
import polars as pl
import pytest

from refold.report.examples import worst_windows
from refold.scoring.events import group
from refold.scoring.scan import scan
from tests.data.makers import checks, random_bars, ready
from tests.scoring.test_detector import detector, moved, parts


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_the_window_of_the_strangest_event_holds_its_peak(layout):
    bars = random_bars([200, 200])
    data = ready(bars, features=["intraday_return"], window_size=8, checks=checks(broken_bar="warn"), layout=layout)
    judge = detector(data).fit(*parts(bars))
    spoilt = moved(bars, 120, 3.0)
    events = group(pl.concat(list(scan(judge, spoilt))).filter("verdict"))
    first = worst_windows(judge, spoilt, events, count=2)[0]
    assert first.asset == "A"
    peak = np.flatnonzero(first.timestamps == np.datetime64(spoilt["timestamp"][120])).item()
    assert first.truth[peak, 0] == pytest.approx(np.log(spoilt["close"][120] / spoilt["open"][120]), rel=1e-4)
    np.testing.assert_allclose(first.reconstruction[:, 0], judge.scaler.mean[0].item(), rtol=1e-4)
    assert first.truth.shape == first.reconstruction.shape == (8, len(judge.columns))
