"""Scores by prediction: each bar against the windows that end before it, by a plain loop; and nothing looks ahead."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import compose_run, slow_but
from polars.testing import assert_frame_equal

from refold import models
from refold.config.validate import check
from refold.data.unsplit import unsplit_series
from refold.errors import ConfigError
from refold.scoring.alignment import ALIGNMENTS
from refold.scoring.baselines import PCA, Components
from refold.scoring.scan import scan
from refold.scoring.scores import CompositeScore, PredictionScore, StudentScore
from refold.scoring.thresholds import Quantile
from tests.data.makers import checks, random_bars, ready, with_value
from tests.scoring.test_alignment import PLAIN
from tests.scoring.test_detector import detector, parts, small_autoencoder
from tests.scoring.test_scan import ordered

T, P = 8, 3
HOLES = {"checks": checks(missing_value="mask", gap="mask"), "max_masked": 3}
CASES = {
    "all present": {},
    "holes": HOLES,
    "relative": {"features": ["window_log_price", "parkinson_range"], **HOLES},
    "panel": {"layout": "panel"},
}


def composite(F: int, *, horizon: int = P, bridge: str = "latent") -> models.Autoencoder:
    torch.manual_seed(1)
    return models.build(F, predictor="conditional", horizon=horizon, hidden_size=6, latent_dim=3, bridge=bridge).eval()


def spoilt(bars: pl.DataFrame) -> pl.DataFrame:
    return with_value(bars, [40, 41, 60, 83, 84, 85, 170], "close", None)


def judged(bars: pl.DataFrame, score, *, alignment: str = "mean", horizon: int = P, **settings):
    """A detector around random weights, fitted to the bars."""
    data = ready(bars, horizon=horizon, **settings)
    return detector(
        data, autoencoder=composite(data.num_features, horizon=horizon), score=score, alignment=alignment,
        threshold=Quantile(share=0.9, per_asset=False),
    ).fit(*parts(bars))  # fmt: skip


def by_hand(model, series, segments, alignment: str, horizon: int) -> np.ndarray:
    """Errors (R, F) of each row: one window and one row at a time, without what comes after the row."""
    R, F = series.values.shape
    errors = np.full((R, F), np.nan)
    present = torch.ones(R, dtype=torch.bool) if series.present is None else series.present
    for first, count in segments.tolist():
        for row in range(first + T, first + count):
            if not present[row]:
                continue
            found = []  # the newest window first
            for step in range(min(horizon, row - first - T + 1)):
                start = row - T - step
                base = start + int(present[start:].int().argmax())
                held, seen = series.values[start : row + 1].clone(), present[start : row + 1]
                for column in series.relative:
                    held[:, column] -= series.values[base, column]
                with torch.no_grad():
                    code = model.encode(held[None, :T], seen[None, :T])
                    mask = torch.zeros(1, horizon, dtype=torch.bool)
                    mask[0, : step + 1] = seen[T:]
                    found.append((held[T + step] - model.predict(code, mask=mask)[0, step]).numpy())
            errors[row] = PLAIN[alignment](np.stack(found), **({} if alignment == "last" else {"axis": 0}))
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("alignment", slow_but(["mean"], ALIGNMENTS))
@pytest.mark.parametrize("case", slow_but(["all present", "relative"], CASES))
def test_errors_are_those_of_the_windows_that_end_before_the_bar(case, alignment):
    bars = random_bars([110, 90] if case != "panel" else [110, 110])
    data = ready(bars, horizon=P, **CASES[case])
    model = composite(data.num_features)
    judge = detector(data, autoencoder=model, score=PredictionScore(), alignment=alignment)
    judge.batch = 37  # blocks end within runs
    piece = unsplit_series(spoilt(bars) if "checks" in CASES[case] else bars, judge.recipe, judge.scaler)
    assert (piece.series.present is not None) == ("checks" in CASES[case])
    values = judge.measurer.values(piece.series, piece.segments, lambda rows: None, None)[0]
    expected = by_hand(model, piece.series, piece.segments, alignment, P)
    np.testing.assert_allclose(values, expected, atol=2e-6)
    assert np.isfinite(expected).any(axis=1).sum() > 60


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, T + 4])
def test_any_horizon(horizon):
    bars = spoilt(random_bars([110, 90]))
    data = ready(random_bars([200, 190]), horizon=horizon, **HOLES)
    model = composite(data.num_features, horizon=horizon)
    judge = detector(data, autoencoder=model, score=PredictionScore())
    piece = unsplit_series(bars, judge.recipe, judge.scaler)
    values = judge.measurer.values(piece.series, piece.segments, lambda rows: None, None)[0]
    np.testing.assert_allclose(values, by_hand(model, piece.series, piece.segments, "mean", horizon), atol=2e-6)


@pytest.mark.parametrize(
    ("score", "alignment"),
    [*((PredictionScore, alignment) for alignment in ALIGNMENTS), (CompositeScore, "last")],
)
def test_no_later_bar_changes_a_score(score, alignment):
    bars = random_bars([160, 150])
    judge = judged(bars, score(), alignment=alignment)
    cut = bars["timestamp"].unique().sort()[120]
    after = pl.col("timestamp") >= cut
    changed = bars.with_columns(
        pl.when(after).then(pl.col(name) * 1.7).otherwise(name).alias(name) for name in ("open", "high", "low", "close")
    )
    early = (bars["timestamp"] < cut).to_numpy()
    before, there = judge.score(bars), judge.score(changed)
    assert np.isfinite(before[early]).sum() > 150
    np.testing.assert_array_equal(before[early], there[early])
    assert not np.array_equal(before[~early], there[~early], equal_nan=True)


def test_the_composite_holds_both_errors_side_by_side_and_adds_what_a_feature_has_of_them():
    bars = random_bars([160, 160])
    for settings in ({}, {"layout": "panel"}):
        judge = judged(bars, CompositeScore(), **settings)
        piece = unsplit_series(bars, judge.recipe, judge.scaler)
        given = piece.series, piece.segments
        joined = judge._bars(*given)[0]
        alone = {}
        for score in (StudentScore(), PredictionScore()):
            judge.score_function = score
            alone[type(score)] = judge._bars(*given)[0]
        F = len(judge.features)
        expected = torch.cat([alone[StudentScore], alone[PredictionScore]], dim=1)
        assert joined.shape == (320, 2 * F)
        there = ~joined.isnan()
        torch.testing.assert_close(joined[there], expected[there])
    tails = CompositeScore()
    rows = torch.randn(500, 4).double()
    tails.fit(rows)
    both, shared = tails.tails.contributions(rows), tails.contributions(rows, np.zeros(500, int))
    torch.testing.assert_close(shared, both[:, :2] + both[:, 2:])


@pytest.mark.parametrize("score", [PredictionScore, CompositeScore])
def test_it_comes_back_from_its_state(score):
    bars = random_bars([160])
    judge = judged(bars, score())
    again = detector(
        ready(bars, horizon=P),
        autoencoder=judge.autoencoder,
        score=score(),
        threshold=Quantile(share=0.9, per_asset=False),
    )
    again.load_state_dict(judge.state_dict())
    np.testing.assert_array_equal(judge.score(bars), again.score(bars))


@pytest.mark.slow
@pytest.mark.parametrize("horizon", slow_but([P], [P, T + 4]))
def test_pieces_give_what_the_whole_gives_and_the_first_bars_say_why_they_have_no_score(horizon):
    judge = judged(random_bars([300]), PredictionScore(), horizon=horizon, **HOLES)
    bars = spoilt(random_bars([160, 140], seed=5))
    once, cut = (pl.concat(list(scan(judge, ordered(judge, bars), piece=piece))) for piece in (10**9, 37))
    assert_frame_equal(once, cut, rel_tol=1e-4, abs_tol=1e-5)
    early = once.filter(pl.int_range(pl.len()).over("asset").is_between(1, T))
    assert early["reason"].unique().to_list() == ["no_window_before"]
    assert once["score"].count() > 200


def test_pca_predicts_from_its_code_by_a_regression():
    data = ready(random_bars([200]), horizon=P)
    model = Components(PCA(4, seed=0).fit(data.train_windows), data.train_windows)
    judge = detector(data, autoencoder=composite(2), score=PredictionScore()).around(model)
    series = data.train_windows.series
    judge.fit_series((series, data.segments("train")), (series, data.segments("val")))
    assert np.isfinite(judge.score_series(series, data.segments("test")).score).sum() == data.segments("test")[0, 1] - T
    assert model.predict(model.encode(data.test_windows.gather([0, 1]))).shape == (2, P, 2)


@pytest.mark.parametrize("name", ["prediction", "composite"])
def test_without_a_predictor_it_is_refused(name):
    message = rf"score is {name.capitalize()}Score, which needs a model that predicts: train with predictor=repeat"
    with pytest.raises(ConfigError, match=message):
        check(compose_run([f"score={name}"], definite=False))
    assert check(compose_run([f"score={name}", "predictor=repeat"], definite=False)) == []
    score = {"prediction": PredictionScore, "composite": CompositeScore}[name]()
    with pytest.raises(ConfigError, match=message):
        detector(ready(random_bars([90])), autoencoder=small_autoencoder(), score=score)
