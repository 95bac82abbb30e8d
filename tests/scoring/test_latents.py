"""Codes of a table in pieces are those of the whole, each at the last bar of its window."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import slow_but
from polars.testing import assert_frame_equal

from refold.data.unsplit import unsplit_series
from refold.scoring.latents import scan_latents
from tests.data.makers import random_bars, with_value
from tests.scoring.test_scan import MASKED, fitted, ordered

T = 8


def encoded(judge, bars: pl.DataFrame, piece: int = 10**9) -> pl.DataFrame:
    return pl.concat(list(scan_latents(judge, ordered(judge, bars), piece=piece)))


@pytest.mark.parametrize(
    "settings", slow_but([MASKED], [{}, MASKED, {"features": ["log_return", "relative_volume_20"]}])
)
def test_pieces_give_what_the_whole_table_gives(settings):
    judge = fitted(random_bars([300]), **settings)
    bars = random_bars([260, 180, 230], seed=5)
    if settings is MASKED:
        bars = with_value(bars, [40, 41, 255, 300, 301, 302, 500], "close", None)
    once = encoded(judge, bars)
    told: list[int] = []
    cut = pl.concat(list(scan_latents(judge, ordered(judge, bars), piece=37, progress=told.append)))
    assert_frame_equal(once, cut, rel_tol=1e-4, abs_tol=1e-5)
    assert once.height > 500
    assert sum(told) == bars.height
    assert once.select("timestamp", "asset").is_unique().all()


def test_a_row_is_the_code_of_the_window_that_ends_there():
    judge = fitted(random_bars([300]))
    bars = random_bars([60, 50], seed=5)
    table = encoded(judge, bars)
    assert table.columns == ["timestamp", "asset", "z_0", "z_1", "z_2"]
    made = unsplit_series(bars, judge.recipe, judge.scaler)
    for asset in bars["asset"].unique():
        own, rows = bars.filter(asset=asset), table.filter(asset=str(asset))
        lost = own.height - rows.height  # the bars before the first window's end
        assert rows["timestamp"].to_list() == own["timestamp"][lost:].to_list()
        place = made.origin[:, 0].tolist().index(bars["asset"].to_list().index(asset) + lost)
        window = made.series.values[place - T + 1 : place + 1]
        code = judge.autoencoder.encode(window.unsqueeze(0))[0]
        np.testing.assert_allclose(rows.row(0)[2:], code.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_window_of_a_panel_is_one_row():
    judge = fitted(random_bars([300, 300]), layout="panel", min_assets=1.0)
    table = encoded(judge, random_bars([80, 80], seed=5))
    assert table["asset"].unique().to_list() == ["panel"]
    assert table["timestamp"].is_unique().all()
    assert table.height > 60
    assert torch.tensor(table.select(pl.col("^z_.*$")).to_numpy()).isfinite().all()
