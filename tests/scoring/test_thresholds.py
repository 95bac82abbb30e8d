"""Levels against their formulas and against scipy; SPOT learns from the past alone; alarms are counted as runs."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import genpareto

from refold.errors import ConfigError
from refold.scoring.budget import AlarmBudget
from refold.scoring.tails import fit_pareto, fit_paretos, fit_tail, tail_level, tail_levels
from refold.scoring.thresholds import (
    FEWEST_OWN,
    MeanStd,
    PeaksOverThreshold,
    Quantile,
    StreamingPeaks,
    ValidationScores,
    count_alarms,
    per_asset_year,
    running_levels,
)


def scores(count: int = 5000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, count) ** 2


def test_quantile_and_mean_std_are_their_formulas():
    known = scores()
    one, two = Quantile(share=0.99, per_asset=False), MeanStd(deviations=3.0, per_asset=False)
    one.fit(known)
    two.fit(known)
    assert (known > float(one.level)).mean() == pytest.approx(0.01, abs=1e-3)
    assert float(two.level) == pytest.approx(known.mean() + 3 * known.std())


@pytest.mark.parametrize("gamma", [-0.3, -0.1, 0.0, 0.2, 0.7])
def test_the_tail_is_found_and_is_at_least_as_likely_as_scipys(gamma):
    drawn = genpareto.rvs(gamma, scale=2.0, size=4000, random_state=1)
    shape, scale = fit_pareto(drawn)
    assert shape == pytest.approx(gamma, abs=0.06)
    assert scale == pytest.approx(2.0, rel=0.08)
    theirs = genpareto.fit(drawn, floc=0)
    ours, other = (genpareto.logpdf(drawn, c, 0, s).sum() for c, s in ((shape, scale), (theirs[0], theirs[2])))
    assert ours >= other - 1e-3


def searched(peaks: np.ndarray) -> tuple[float, float]:
    """Shape and scale of peaks, by scipy's search between two neighbours of the grid: the twin of `fit_paretos`."""
    y = peaks / peaks.mean()
    ends = 1 - np.logspace(-4, 0, 24)[:-1]
    grid = np.concatenate([-ends / y.max(), [0.0], np.logspace(-3, 2, 40)])
    grid.sort()

    def loss(theta: float) -> float:
        if abs(theta) < 1e-9:
            return 0.0  # the exponential distribution of mean 1: log sigma + gamma = 0
        gamma = np.log1p(theta * y).mean()
        return np.inf if gamma < -0.5 else float(np.log(gamma / theta) + gamma)

    with np.errstate(all="ignore"):
        gammas = np.log1p(np.outer(grid, y)).mean(axis=1)
        losses = np.where(gammas < -0.5, np.inf, np.log(gammas / grid) + gammas)
    losses[np.abs(grid) < 1e-9] = 0.0  # as `loss` has it
    best = int(losses.argmin())
    neighbours = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    with np.errstate(invalid="ignore"):  # where no shape has a finite loss, the grid's best stays
        found = minimize_scalar(loss, bounds=neighbours, method="bounded", options={"xatol": 1e-8})
    theta = float(found.x) if found.fun < losses[best] else float(grid[best])
    if abs(theta) < 1e-9:
        return 0.0, float(peaks.mean())
    gamma = float(np.log1p(theta * y).mean())
    return gamma, gamma / theta * float(peaks.mean())


def test_tails_are_those_of_a_plain_search(monkeypatch):
    """The single search ends within 1e-8 of theta, and so do both from each other."""
    draw = np.random.default_rng(0)
    peaks = [
        genpareto.rvs(
            draw.uniform(-0.9, 1.5), scale=10 ** draw.uniform(-6, 6), size=int(draw.integers(2, 90)), random_state=n
        )
        for n in range(60)
    ] + [np.ones(5), np.array([1.0, 2.0]), np.array([1e-12, 1.0]), np.array([5.0])]
    gammas, sigmas = fit_paretos(peaks)
    single = [searched(one) for one in peaks]
    assert min(gamma for gamma, _ in single) < -0.49 < 1 < max(gamma for gamma, _ in single)
    np.testing.assert_allclose(gammas, [gamma for gamma, _ in single], rtol=0, atol=2e-7)
    np.testing.assert_allclose(sigmas, [sigma for _, sigma in single], rtol=2e-7)
    monkeypatch.setattr("refold.scoring.tails._NUMBERS_AT_ONCE", 10_000)
    np.testing.assert_allclose(np.array(fit_paretos(peaks)), [gammas, sigmas], rtol=2e-7)
    begins, counts = [float(n) for n in range(len(peaks))], [20 * len(one) for one in peaks]
    levels = [tail_level(*tail, 1e-3) for tail in zip(begins, peaks, counts, strict=True)]
    np.testing.assert_allclose(tail_levels(begins, peaks, counts, 1e-3), levels, rtol=1e-6)


def test_the_level_is_passed_with_the_chosen_risk():
    known = scores(200_000)
    pot = PeaksOverThreshold(risk=1e-4, start=0.98, per_asset=False)
    pot.fit(known[:20_000])
    assert (known > float(pot.level)).mean() == pytest.approx(1e-4, rel=0.6)


def test_the_level_at_gamma_0_has_the_right_sign(monkeypatch):
    """z = t - sigma ln(q n / N): above t, because q n / N is below 1. It is the limit of the formula for gamma -> 0."""
    peaks = np.linspace(0.01, 5, 100)
    levels = []
    for gamma in (-1e-6, 0.0, 1e-6):
        monkeypatch.setattr("refold.scoring.tails.fit_pareto", lambda y, gamma=gamma: (gamma, 2.0))
        levels.append(tail_level(3.0, peaks, 5000, 1e-3))
    assert levels[1] == pytest.approx(3.0 - 2.0 * math.log(1e-3 * 5000 / 100))
    assert levels[0] < levels[1] < levels[2]
    assert levels[0] == pytest.approx(levels[2], rel=1e-4)


def spot(known: np.ndarray, risk: float = 1e-3) -> StreamingPeaks:
    threshold = StreamingPeaks(risk=risk, start=0.98, per_asset=False)
    threshold.fit(known)
    return threshold


def test_spot_is_the_algorithm_of_the_paper():
    known, new = scores(), scores(2000, seed=1)
    new[[100, 700]] = np.nan
    tail = fit_tail(known, 1e-3, 0.98)
    begin, peaks, count, level = tail.begin, list(tail.peaks), len(known), tail.level
    expected = []
    for x in new:
        expected.append(level)
        if math.isnan(x) or x > level:
            continue
        count += 1
        if x > begin:
            peaks.append(x - begin)
            level = tail_level(begin, np.array(peaks), count, 1e-3)
    levels, _ = spot(known).levels(new, None)
    np.testing.assert_allclose(levels, expected)
    assert len(np.unique(levels)) > 20  # it has learnt


def test_spot_in_pieces_is_spot_at_once_and_the_future_changes_nothing_before_it():
    known, new = scores(), scores(2000, seed=1)
    threshold = spot(known)
    whole, _ = threshold.levels(new, None)
    first, tail = threshold.levels(new[:777], None)
    second, _ = threshold.levels(new[777:], tail)
    np.testing.assert_allclose(np.concatenate([first, second]), whole)
    other = new.copy()
    other[1000:] *= 50
    np.testing.assert_array_equal(threshold.levels(other, None)[0][:1001], whole[:1001])


def test_spot_does_not_learn_an_alarm():
    known = scores()
    threshold = spot(known)
    level = float(threshold.level)
    levels, tail = threshold.levels(np.array([level * 100, 0.0, level * 100]), None)
    assert levels.tolist() == [level] * 3
    assert tail.count == len(known) + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quantile(share=0.99, per_asset=False),
        lambda: MeanStd(deviations=3.0, per_asset=False),
        lambda: PeaksOverThreshold(risk=1e-3, start=0.98, per_asset=False),
        lambda: StreamingPeaks(risk=1e-3, start=0.98, per_asset=False),
    ],
)
def test_state_is_plain_tensors_and_comes_back(make, tmp_path):
    one, two = make(), make()
    one.fit(scores())
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    new = scores(300, seed=3)
    np.testing.assert_array_equal(one.levels(new, None)[0], two.levels(new, None)[0])
    with pytest.raises(ConfigError, match="state has"):
        two.load_state_dict({"nonsense": torch.zeros(1)})


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"threshold\.start is 0\.98; 2 of the 100 validation scores lie above it"):
        PeaksOverThreshold(risk=1e-3, start=0.98, per_asset=False).fit(np.arange(100.0))
    for kind in (PeaksOverThreshold, StreamingPeaks):
        with pytest.raises(ValueError, match=r"threshold\.risk is 0\.1; it must be below 1 - threshold\.start = 0\.02"):
            kind(risk=0.1, start=0.98, per_asset=False)
    with pytest.raises(ValueError, match=r"threshold\.share is 1\.0; it must be in \(0, 1\)"):
        Quantile(share=1.0, per_asset=False)


def validation(bars: int = 730, assets: int = 3, seed: int = 0) -> ValidationScores:
    """Daily scores of some assets, which drift, so that high ones stand side by side; some are missing."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((assets, bars)).cumsum(axis=1) % 7 + generator.exponential(2, (assets, bars))
    drawn = drawn.round(1).reshape(-1)
    drawn[generator.random(len(drawn)) < 0.05] = np.nan
    return ValidationScores(drawn, np.repeat(np.arange(assets), bars), bars, (bars - 1) * 86400.0, bars)


def alarms_at(level: float, known: ValidationScores) -> int:
    with np.errstate(invalid="ignore"):
        return count_alarms(known.scores > level, known.asset)


@pytest.mark.parametrize(("alarms", "per"), [(2.0, "asset_year"), (20.0, "asset_year"), (0.05, "day")])
@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_kept_at_its_level_and_above_and_at_none_just_below(alarms, per, seed):
    known = validation(seed=seed)
    allowed = int(alarms * (np.isfinite(known.scores).sum() / 365.25 if per == "asset_year" else 729))  # a bar a day
    threshold = AlarmBudget(alarms=alarms, per=per, adapt=0.0, per_asset=False)
    threshold.fit_validation(known)
    level = float(threshold.level)
    occurring = np.unique(known.scores[np.isfinite(known.scores)])
    assert max(alarms_at(higher, known) for higher in [level, *occurring[occurring > level]]) <= allowed
    below = occurring[occurring < level]
    assert alarms_at(below[-1], known) == alarms_at(level, known)  # it lies between two scores that occur
    assert alarms_at(below[-2], known) > allowed
    rate = per_asset_year(alarms_at(level, known), int(np.isfinite(known.scores).sum()), known.moments, known.span)
    assert per == "day" or 0.7 * alarms < rate <= alarms


def five_minutes(days: int = 12, assets: int = 3) -> ValidationScores:
    """Scores of bars of five minutes, 78 on each weekday."""
    bars = 78 * days
    drawn = np.random.default_rng(2).exponential(1, bars * assets)
    return ValidationScores(drawn, np.repeat(np.arange(assets), bars), bars, days * 1.4 * 86400.0, days)


def test_a_budget_per_asset_and_day_is_kept():
    known = five_minutes()
    threshold = AlarmBudget(alarms=0.5, per="asset_day", adapt=0.0, per_asset=False)
    threshold.fit_validation(known)
    assert alarms_at(float(threshold.level), known) == 18  # 36 days of an asset
    assert alarms_at(float(threshold.level) * 0.98, known) > 18


def test_a_budget_per_year_that_days_cannot_resolve_says_how_to_count_by_the_day():
    for per, known, said in (
        ("asset_year", five_minutes(days=2), True), ("asset_day", five_minutes(days=2), False),
        ("asset_year", validation(bars=100), False),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"threshold\.alarms is 0\.01 per ") as refused:
            AlarmBudget(alarms=0.01, per=per, adapt=0.0, per_asset=False).fit_validation(known)
        assert ("(threshold.per=asset_day)" in str(refused.value)) == said


def test_a_budget_that_all_levels_keep_to_flags_all_but_the_least():
    threshold = AlarmBudget(alarms=1e6, per="day", adapt=0.0, per_asset=False)
    threshold.fit_validation(ValidationScores(np.array([1.0, 3.0, 2.0]), np.zeros(3, int), 3, 2 * 86400.0, 3))
    assert float(threshold.level) == 1.5


@pytest.mark.parametrize(
    ("alarms", "per", "message"),
    [
        (
            0.1,
            "asset_year",
            r"is 0\.1 per asset_year; validation covers 5\.\d+ asset-years; it must be at least 0\.1[78]",
        ),
        (
            0.001,
            "day",
            r"is 0\.001 per day; validation covers 729 days; it must be at least 0\.00137, which is one alarm",
        ),
    ],
)
def test_a_budget_that_validation_cannot_resolve_is_refused(alarms, per, message):
    with pytest.raises(ConfigError, match=message):
        AlarmBudget(alarms=alarms, per=per, adapt=0.0, per_asset=False).fit_validation(validation())
    least = 1 / (validation().asset_years if per == "asset_year" else 729)
    AlarmBudget(alarms=least, per=per, adapt=0.0, per_asset=False).fit_validation(validation())
    with pytest.raises(ConfigError, match="raise it, bring more validation bars"):  # a single moment covers no time
        AlarmBudget(alarms=least, per=per, adapt=0.0, per_asset=False).fit_validation(
            ValidationScores(np.ones(2), np.arange(2), 1, 0.0, 1)
        )


def test_an_alarm_is_a_run_of_flagged_bars_of_one_asset():
    flagged = np.array([1, 1, 0, 1, 1, 1, 0, 1], dtype=bool)
    assert count_alarms(flagged, np.array([0, 0, 0, 0, 0, 1, 1, 1])) == 4
    assert count_alarms(np.zeros(0, dtype=bool), np.zeros(0)) == 0


EVERY = [
    lambda per_asset: Quantile(share=0.99, per_asset=per_asset),
    lambda per_asset: MeanStd(deviations=3.0, per_asset=per_asset),
    lambda per_asset: PeaksOverThreshold(risk=1e-3, start=0.95, per_asset=per_asset),
    lambda per_asset: StreamingPeaks(risk=1e-3, start=0.95, per_asset=per_asset),
    lambda per_asset: AlarmBudget(alarms=2.0, per="asset_year", adapt=0.0, per_asset=per_asset),
]
KINDS = ["quantile", "mean_std", "pot", "spot", "budget"]


def of_assets(*lengths: int, factors: tuple[float, ...] = (1.0, 5.0, 2.0)) -> ValidationScores:
    """Daily scores of assets A, B, C of some lengths, B's five times as large as A's."""
    generator = np.random.default_rng(5)
    drawn = [factor * generator.exponential(1, length) for factor, length in zip(factors, lengths, strict=False)]
    longest = max(lengths)
    names = ["A", "B", "C"][: len(lengths)]
    asset = np.repeat(np.arange(len(lengths)), lengths)
    return ValidationScores(np.concatenate(drawn), asset, longest, (longest - 1) * 86400.0, longest, names)


@pytest.mark.parametrize("make", EVERY, ids=KINDS)
def test_each_asset_has_the_level_that_its_own_scores_alone_give(make):
    known = of_assets(800, 700)
    threshold = make(True)
    assert threshold.fit_assets(known) == []
    assert threshold.of("A").level < threshold.level < threshold.of("B").level
    for name, alone in known.by_asset():
        single = make(False)
        single.fit_validation(alone)
        assert threshold.of(name).level == single.level
    assert threshold.of("never seen") is threshold
    pooled = make(False)
    assert pooled.fit_assets(known) == []
    assert pooled.of("A") is pooled
    assert pooled.level == threshold.level


@pytest.mark.parametrize("make", EVERY, ids=KINDS)
def test_levels_of_assets_are_saved_and_hold_for_tables_in_pieces(make):
    threshold, again = make(True), make(True)
    threshold.fit_assets(of_assets(800, 700))
    again.load_state_dict(threshold.state_dict())
    table = of_assets(90, 60)
    assets = pl.Series(["A"] * 90 + ["B"] * 60)
    tails = {}
    expected = running_levels(threshold, table.scores, assets, {})
    pieces = [running_levels(again, table.scores[n : n + 7], assets[n : n + 7], tails) for n in range(0, 150, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    assert expected[:90].max() < expected[90:].min()


def test_assets_with_too_few_scores_are_judged_by_the_level_of_all():
    known = of_assets(800, FEWEST_OWN - 1, FEWEST_OWN)
    threshold = Quantile(share=0.99, per_asset=True)
    assert threshold.fit_assets(known) == ["B"]
    assert threshold.of("B") is threshold
    assert set(threshold.own) == {"A", "C"}
    tail = PeaksOverThreshold(risk=1e-3, start=0.98, per_asset=True)
    assert tail.fit_assets(known) == ["B", "C"]  # 2 % of 250 scores are too few for a tail


def test_each_asset_gets_an_equal_share_of_the_alarms_of_a_day():
    known = of_assets(800, 800)
    threshold = AlarmBudget(alarms=0.02, per="day", adapt=0.0, per_asset=True)
    threshold.fit_assets(known)
    for name, alone in known.by_asset():
        assert count_alarms(alone.scores > float(threshold.of(name).level), alone.asset) == 7  # 0.01 x 799 days
