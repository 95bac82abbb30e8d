"""The detector on made bars: what is planted at a bar is reported there, and nothing that comes later counts."""

import time

import numpy as np
import polars as pl
import pytest
import torch
from conftest import slow_but
from torch import nn

from refold.data.unsplit import unsplit_series
from refold.errors import ConfigError, DataError
from refold.models import Autoencoder, AutoregressiveDecoder, LatentBridge, LSTMEncoder
from refold.scoring.alignment import ALIGNMENTS
from refold.scoring.detector import Detector
from refold.scoring.measuring import map_in_order
from refold.scoring.scored import alarm_rate
from refold.scoring.scores import GaussDynamicKernel, GaussStatic, LatentNeighbours, Mahalanobis, SquaredError
from refold.scoring.thresholds import PeaksOverThreshold, Quantile, StreamingPeaks
from tests.data.makers import checks, random_bars, ready, with_value

T = 8


class Zeros(nn.Module):
    """An autoencoder that reconstructs 0, so that the error of a bar is its own value and no other bar's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, windows, mask=None):
        return windows.new_zeros(len(windows), 1)

    def decode(self, code, window_size, mask=None):
        return code.new_zeros(len(code), window_size, self.features)


def small_autoencoder(F: int = 2) -> Autoencoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "num_layers": 1, "dropout": 0.0}
    bridge = LatentBridge(
        latent_dim=3,
        dropout=0.0,
        linear_path="none",
        normalize_windows=False,
        encoder_num_layers=1,
        encoder_state_size=6,
        decoder_num_layers=1,
        decoder_hidden_size=6,
    )
    decoder = AutoregressiveDecoder(output_size=F, conditioning_size=3, reverse=True, start_token="zeros", **sizes)
    return Autoencoder(LSTMEncoder(input_size=F, bidirectional=False, **sizes), bridge, decoder)


def detector(data, *, autoencoder=None, score=None, threshold=None, alignment="mean") -> Detector:
    if autoencoder is None:
        autoencoder = Zeros()
        autoencoder.features = data.num_features
    return Detector(
        autoencoder=autoencoder,
        recipe=data.recipe,
        scaler=data.scaler,
        columns=data.feature_names,
        score=score or SquaredError(),
        threshold=threshold or Quantile(share=0.99, per_asset=False),
        alignment=alignment,
    )


def parts(bars: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first 60 % of each asset's days, and the next 40 %."""
    days = bars["timestamp"].unique().sort()
    border = days[int(0.6 * len(days))]
    return bars.filter(pl.col("timestamp") < border), bars.filter(pl.col("timestamp") >= border)


def moved(bars: pl.DataFrame, row: int, factor: float = 1.6) -> pl.DataFrame:
    """Intraday move of one bar alone: its open is divided, its close stays, so that no other bar's return changes."""
    here = pl.int_range(pl.len()) == row
    return bars.with_columns(pl.when(here).then(pl.col("open") / factor).otherwise(pl.col("open")).alias("open"))


INTRADAY = {"features": ["intraday_return"], "window_size": T, "checks": checks(broken_bar="warn")}


@pytest.mark.parametrize("row", slow_but([0, T, 99], [0, 1, T - 1, T, 50, 98, 99, 100, 101, 150, 179]))
@pytest.mark.parametrize("alignment", slow_but(["mean", "last"], ALIGNMENTS))
def test_what_is_planted_at_a_bar_is_reported_at_that_bar(alignment, row):
    """Two assets of 100 and 80 bars: rows 0, 99, 100 and 179 are first and last bars of a series."""
    bars = random_bars([100, 80])
    judge = detector(ready(bars, **INTRADAY), alignment=alignment)
    scores = judge.score(moved(bars, row))
    assert np.isfinite(scores).all()
    assert scores.argmax() == row
    others = np.arange(180) != row
    np.testing.assert_allclose(scores[others], judge.score(bars)[others], rtol=1e-5)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_around_masked_bars_too(alignment):
    bars = with_value(random_bars([100]), [40, 41, 70], "open", None)
    data = ready(
        bars, features=["intraday_return"], window_size=T, max_masked=3,
        checks=checks(missing_value="mask", broken_bar="warn"),
    )  # fmt: skip
    judge = detector(data, alignment=alignment)
    for row in (39, 42, 69, 71):
        scores = judge.score(moved(bars, row))
        assert np.flatnonzero(np.isnan(scores)).tolist() == [40, 41, 70]  # an absent bar has no score
        assert np.nanargmax(scores) == row


def test_rows_come_back_in_the_order_of_the_table_also_where_bars_are_dropped_or_gaps_filled():
    bars = random_bars([120, 110])
    data = ready(bars, **INTRADAY)
    expected = detector(data).score(bars)
    order = np.random.default_rng(0).permutation(bars.height)
    np.testing.assert_array_equal(detector(data).score(bars[order]), expected[order])
    twice = pl.concat([bars, bars[[5, 180]]])
    data = ready(twice, **{**INTRADAY, "checks": checks(duplicate="drop", broken_bar="warn")})
    scores = detector(data).score(twice)
    np.testing.assert_allclose(scores[:230], expected, rtol=1e-4)
    assert np.isnan(scores[230:]).all()  # the second bar of a moment is dropped
    holes = bars.filter(~pl.int_range(pl.len()).is_in([20, 21]))
    data = ready(bars, **{**INTRADAY, "checks": checks(gap="mask", broken_bar="warn"), "max_masked": 3})
    np.testing.assert_allclose(detector(data).score(holes), np.delete(expected, [20, 21]), rtol=1e-4)


def test_each_asset_of_a_panel_is_scored_by_its_own_features():
    bars = random_bars([90, 90, 90])
    settings = {**INTRADAY, "layout": "panel"}
    judge = detector(ready(bars, **settings))
    for row in (0, 89, 90, 150, 269):
        assert judge.score(moved(bars, row)).argmax() == row


@pytest.mark.parametrize(
    "threshold", [Quantile(share=0.9, per_asset=False), StreamingPeaks(risk=0.05, start=0.7, per_asset=False)]
)
@pytest.mark.parametrize(
    "score",
    [
        Mahalanobis(),
        GaussStatic(floor=1e-6),
        GaussDynamicKernel(memory=20, floor=1e-6, width=2.0, centred=False),
        LatentNeighbours(neighbours=3, references=100),
    ],
)
def test_under_last_nothing_that_comes_later_changes_a_score_or_a_level(score, threshold):
    bars = random_bars([160, 140], seed=3)
    data = ready(bars)
    judge = detector(data, autoencoder=small_autoencoder(), score=score, threshold=threshold, alignment="last")
    judge.fit(*parts(bars))
    new = random_bars([160, 140], seed=4)
    after = pl.col("timestamp") > new["timestamp"].unique().sort()[120]
    price = pl.col("open", "high", "low", "close", "volume")
    other = new.with_columns(pl.when(after).then(price.reverse() * 3).otherwise(price))
    one, two = (judge.score_series(piece.series, piece.segments, piece.origin) for piece in (
        unsplit_series(table, data.recipe, data.scaler) for table in (new, other)
    ))  # fmt: skip
    before = one.times <= np.unique(one.times)[120]
    assert 200 < np.isfinite(one.score[before]).sum() < before.sum()
    np.testing.assert_array_equal(one.score[before], two.score[before])
    assert not np.array_equal(one.score[~before], two.score[~before], equal_nan=True)  # the change is felt
    levels = [judge.flag(scored)[0] for scored in (one, two)]
    np.testing.assert_array_equal(levels[0][before], levels[1][before])


@pytest.mark.parametrize("alignment", ["mean", "median", "max"])
def test_other_alignments_look_at_most_a_window_ahead(alignment):
    bars = random_bars([160], seed=3)
    judge = detector(ready(bars), autoencoder=small_autoencoder(), alignment=alignment)
    after = pl.int_range(pl.len()) > 120
    price = pl.col("open", "high", "low", "close", "volume")
    one, two = judge.score(bars), judge.score(bars.with_columns(pl.when(after).then(price * 3).otherwise(price)))
    np.testing.assert_array_equal(one[: 121 - (T - 1)], two[: 121 - (T - 1)])
    assert (one[121 - (T - 1) : 121] != two[121 - (T - 1) : 121]).any()


def test_the_test_part_changes_no_threshold():
    bars = random_bars([300])
    day = bars["timestamp"][270]
    other = bars.with_columns(
        pl.when(pl.col("timestamp") > day).then(pl.col("close") * 7).otherwise(pl.col("close")).alias("close")
    ).with_columns(pl.max_horizontal("high", "close").alias("high"))
    levels = []
    for table in (bars, other):
        data = ready(table)
        judge = detector(data, autoencoder=small_autoencoder(), score=Mahalanobis())
        series = data.train_windows.series
        judge.fit_series((series, data.segments("train")), (series, data.segments("val")))
        levels.append(judge.validation["level"])
    assert levels[0] == levels[1]


@pytest.mark.parametrize("score", [Mahalanobis(), GaussStatic(floor=1e-6)])
def test_contributions_add_up_to_the_score_and_blame_the_feature(score):
    bars = random_bars([160])
    data = ready(bars)
    judge = detector(data, score=score).fit(*parts(bars))
    wild = bars.with_columns(
        pl.when(pl.int_range(pl.len()) == 80).then(pl.col("high") * 1.5).otherwise(pl.col("high")).alias("high")
    )
    piece = unsplit_series(wild, data.recipe, data.scaler)
    scored = judge.score_series(piece.series, piece.segments, piece.origin)
    there = np.isfinite(scored.score)
    np.testing.assert_allclose(scored.contributions[there].sum(axis=1), scored.score[there])
    assert data.feature_names[scored.contributions[80].argmax()] == "parkinson_range"


def test_reconstructions_are_in_the_units_of_the_features():
    bars = random_bars([160])
    data = ready(bars)
    piece = unsplit_series(bars, data.recipe, data.scaler)
    made = detector(data).score_series(piece.series, piece.segments).reconstruction
    np.testing.assert_allclose(made[5], data.scaler.mean.numpy(), rtol=1e-5)  # 0 on the scale is the training mean


def test_a_feature_that_is_relative_to_its_window_is_scored_and_reconstructed_as_a_log_price():
    bars = random_bars([160])
    data = ready(bars, features=["window_log_price", "log_return"])
    judge = detector(data, autoencoder=small_autoencoder()).fit(*parts(bars))
    piece = unsplit_series(bars, data.recipe, data.scaler)
    scored = judge.score_series(piece.series, piece.segments)
    assert np.isfinite(scored.score[1:]).all()
    assert np.isfinite(scored.reconstruction[1:]).all()
    assert np.abs(scored.reconstruction[1:, 0] - bars["close"].log().to_numpy()[1:]).max() < 0.5


def test_state_comes_back_and_is_refused_by_another_detector(tmp_path):
    bars = random_bars([160])
    data = ready(bars)
    judge = detector(data, score=Mahalanobis()).fit(*parts(bars))
    torch.save(judge.state_dict(), tmp_path / "detector.pt")
    state = torch.load(tmp_path / "detector.pt", weights_only=True)
    later = detector(data, score=Mahalanobis())
    later.load_state_dict(state)
    np.testing.assert_array_equal(later.score(bars), judge.score(bars))
    high = judge.validation["scores"].numpy()[-5:] * 10
    np.testing.assert_array_equal(later.rarity.of(high, "A0"), judge.rarity.of(high, "A0"))
    assert later.validation["level"] == judge.validation["level"] == float(judge.threshold.level)
    with pytest.raises(ConfigError, match="detector is Mahalanobis, Quantile, mean; its settings say SquaredError"):
        detector(data).load_state_dict(state)
    with pytest.raises(ConfigError, match="of format 0; this version of refold reads 3"):
        later.load_state_dict({**state, "format": 0})


def test_alarms_are_counted_per_asset_and_year():
    bars = random_bars([366, 366])  # daily, a year and a day
    data = ready(bars, **INTRADAY)
    piece = unsplit_series(bars, data.recipe, data.scaler)
    scored = detector(data).score_series(piece.series, piece.segments)
    flagged = np.zeros(732, dtype=bool)
    flagged[[10, 11, 12, 200, 500]] = True  # three alarms
    assert alarm_rate(flagged, scored, piece.series.time_dtype).per_asset_year == pytest.approx(3 / 2, rel=0.01)


def test_too_few_bars_are_named():
    bars = random_bars([160])
    data = ready(bars)
    train, val = parts(bars)
    with pytest.raises(DataError, match="the val part has no bar to fit score to"):
        detector(data, score=Mahalanobis()).fit(train, val.head(5))
    with pytest.raises(ConfigError, match="validation scores lie above it"):
        detector(data, threshold=PeaksOverThreshold(risk=1e-3, start=0.98, per_asset=False)).fit(train, val)


@pytest.mark.parametrize("score", [Mahalanobis(), LatentNeighbours(neighbours=3, references=100)])
def test_a_panel_whose_assets_come_and_go(score):
    bars = random_bars([200, 200, 150])
    data = ready(bars, layout="panel", min_assets=0.6, features=["intraday_return", "parkinson_range"], window_size=T)
    judge = detector(data, autoencoder=small_autoencoder(6), score=score).fit(*parts(bars))
    scores = judge.score(bars)
    assert np.isfinite(scores).all()
    piece = unsplit_series(bars, data.recipe, data.scaler)
    scored = judge.score_series(piece.series, piece.segments, piece.origin)
    assert np.isnan(scored.score[scored.origin < 0]).all()  # the third asset has no bars in the first 50 days
    assert (scored.origin < 0).sum() == 50


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_jobs_come_back_in_their_order_and_torch_keeps_its_threads(workers):
    before = torch.get_num_threads()
    found = map_in_order(lambda job: (time.sleep(0.01 * (job % 3)), job * job)[1], range(20), workers)
    assert list(found) == [job * job for job in range(20)]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda job: 1 // (5 - job), range(20), workers))
    assert torch.get_num_threads() == before
