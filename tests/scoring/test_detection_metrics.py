"""Metrics of detection: by hand, by brute force, and against published implementations."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from refold.scoring.detection_metrics import (
    affiliation,
    auroc,
    average_precision,
    best_threshold,
    detection_delay,
    event_average_precision,
    event_f1,
    pool,
    volume_under_surface,
)


def measure(metric, *series):
    """A metric over series, each a pair of texts or arrays: scores, labels."""
    as_labels = [[mark == "x" for mark in labels] if isinstance(labels, str) else labels for _, labels in series]
    return metric(pool(zip((scores for scores, _ in series), as_labels, strict=True)))


def random_case(seed, bars=200, share=0.03, longest=6):
    """Scores that know something of labels in runs, some of them at the very ends."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(bars, dtype=bool)
    for start in np.flatnonzero(generator.random(bars) < share):
        labels[start : start + generator.integers(1, longest + 1)] = True
    if seed % 2:
        labels[0] = labels[-1] = True
    scores = generator.normal(size=bars) + 1.5 * np.roll(labels, 1) * generator.random(bars)
    return (np.round(scores, 1) if seed % 3 else scores), labels


def flags(text):
    return [1.0 if mark == "!" else 0.0 for mark in text]


# Ranking --------------------------------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    # from the top: hit (1/1), miss, hit (2/3), miss
    assert measure(average_precision, ([4, 3, 2, 1], "x.x.")) == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert measure(average_precision, ([1, 1, 1, 1], "x...")) == 0.25


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_ranking_is_that_of_scikit_learn_on_any_scale(scale):
    for seed in range(6):
        scores, labels = random_case(seed)
        ap = measure(average_precision, (scores * scale, labels))
        area = measure(auroc, (scores * scale, labels))
        assert ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_by_hand():
    assert measure(auroc, ([3, 2, 2, 1], "x.x.")) == pytest.approx(3.5 / 4)


def test_series_are_pooled():
    one, two = random_case(0), random_case(1)
    whole = (np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]]))
    assert measure(average_precision, one, two) == measure(average_precision, whole)


def test_without_an_anomaly_there_is_nothing_to_measure():
    case = ([1.0, 2.0], "..")
    for metric in (average_precision, auroc):
        assert math.isnan(measure(metric, case))
    for metric in (partial(volume_under_surface, max_buffer=2), partial(affiliation, threshold=0.0), best_threshold):
        assert all(math.isnan(value) for value in measure(metric, case).values())


def test_missing_scores_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        pool([([1.0, math.nan], [True, False])])
    with pytest.raises(ValueError, match=r"scores are \(2,\) and labels \(1,\)"):
        pool([(np.zeros(2), [True])])


# Volume under the surface ---------------------------------------------------------------------------------------------


def test_average_precision_by_event_by_hand():
    # the run counts by its highest score alone: events 9 and 3, false bars 5 and 1
    assert measure(event_average_precision, ([9, 0, 0, 5, 3, 1], "xxx.x.")) == pytest.approx((1 + 2 / 3) / 2)
    assert measure(event_average_precision, ([9, 5], "x."), ([8, 1], "x.")) == 1
    assert math.isnan(measure(event_average_precision, ([1, 2], "..")))


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_by_event_is_that_of_bars_where_each_event_is_one_bar(seed):
    scores, labels = random_case(seed)
    single = labels & ~np.append(False, labels[:-1])
    kept = single | ~labels
    alone = measure(average_precision, *((scores[[place]], single[[place]]) for place in np.flatnonzero(kept)))
    first = np.where(labels & ~single, -math.inf, scores)  # the first bar of each event is its highest
    assert measure(event_average_precision, (first, labels)) == pytest.approx(alone)


def test_vus_without_buffer_is_average_precision_where_all_thresholds_are_looked_at():
    generator = np.random.default_rng(0)
    labels = np.zeros(150, dtype=bool)
    labels[::10] = True  # single bars: a share of events touched of less than 1 is what recall says already, squared
    labels[10:] = False
    scores = generator.permutation(150).astype(float)
    got = measure(partial(volume_under_surface, max_buffer=0, num_thresholds=150), (scores, labels))
    assert got["vus_pr"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert got["vus_roc"] == pytest.approx(roc_auc_score(labels, scores), abs=0.01)


def test_vus_by_hand():
    # buffer 0 and 1: the label alone. Thresholds 3, 2, 1: TP 0, 1, 1 of P 1; precision 0, 1/2, 1/3; AP 1/2.
    # buffer 2: neighbours weigh sqrt(1/2). Threshold 3: TP sqrt(.5), P_l = (1 + 1 + sqrt(.5)) / 2, precision sqrt(.5);
    # threshold 2: TP 1 + sqrt(.5), recall capped at 1.
    root = math.sqrt(0.5)
    recall = root / (1 + root / 2)
    soft = recall * root + (1 - recall) * (1 + root) / 2
    got = measure(partial(volume_under_surface, max_buffer=2, num_thresholds=3), ([3, 2, 1], ".x."))
    assert got["vus_pr"] == pytest.approx((0.5 + 0.5 + soft) / 3, abs=1e-15)


def published():
    """The authors' package; it needs more than it declares at import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "the published implementation is not installed: pip install --no-deps vus"
        metrics = pytest.importorskip("vus.utils.metrics", reason=reason, exc_type=ImportError)
        affiliation = pytest.importorskip("vus.affiliation.metrics", reason=reason, exc_type=ImportError)
        generics = pytest.importorskip("vus.affiliation.generics", reason=reason, exc_type=ImportError)
    return metrics.metricor(), affiliation.pr_from_events, generics.convert_vector_to_events


@pytest.mark.parametrize("seed", range(8))
def test_vus_is_the_published_one(seed):
    grader, _, _ = published()
    scores, labels = random_case(seed)
    *_, roc, pr = grader.RangeAUC_volume_opt(labels.astype(int), scores, windowSize=9, thre=60)
    got = measure(partial(volume_under_surface, max_buffer=9, num_thresholds=60), (scores, labels))
    assert got["vus_pr"] == pytest.approx(pr, abs=1e-12)
    assert got["vus_roc"] == pytest.approx(roc, abs=1e-12)


def test_buffers_end_with_their_series():
    # the highest score is right after an event of the first asset: near it, were they one series
    one, two = ([1, 2, 8], "..x"), ([9, 1, 2, 1, 1, 1], "......")
    apart = measure(partial(volume_under_surface, max_buffer=4, num_thresholds=9), one, two)
    joined = measure(partial(volume_under_surface, max_buffer=4, num_thresholds=9), (one[0] + two[0], one[1] + two[1]))
    assert apart["vus_pr"] < joined["vus_pr"]


def test_many_bars_are_no_burden():
    """100,000 bars with 1,000 events and buffers up to 100: arrays of bars x thresholds would need 20 GB."""
    scores, labels = random_case(2, bars=100_000, share=0.01)
    assert 0 < measure(partial(volume_under_surface, max_buffer=100), (scores, labels))["vus_pr"] < 1


# Events ---------------------------------------------------------------------------------------------------------------


def test_event_f1_by_hand():
    # two of three events found, one of them twice; two bars flagged for nothing
    got = measure(partial(event_f1, threshold=0.5), (flags(".!!..!..!."), ".xx..x..xx"), (flags("!!.."), "...x"))
    assert got == {
        "event_f1": pytest.approx(2 * 3 / (3 + 2 + 4)),
        "event_precision": 3 / 5,
        "event_recall": 3 / 4,
    }


def test_flagging_everything_does_not_pay():
    got = measure(partial(event_f1, threshold=0.5), (np.ones(100), [bar in (20, 21, 60) for bar in range(100)]))
    assert got["event_f1"] == pytest.approx(2 * 2 / (2 + 97 + 2))
    assert got["event_recall"] == 1


def test_events_of_two_series_are_two():
    # as one series the event would be found whole
    got = measure(partial(event_f1, threshold=0.5), (flags(".!"), ".x"), (flags(".."), "x."))
    assert got["event_recall"] == 0.5


def test_nothing_flagged():
    assert measure(partial(event_f1, threshold=2.0), (flags(".!"), ".x"))["event_f1"] == 0
    assert math.isnan(measure(partial(event_f1, threshold=2.0), (flags(".!"), ".x"))["event_precision"])
    assert math.isnan(measure(partial(detection_delay, threshold=2.0), (flags(".!"), ".x"))["mean_delay_bars"])


@pytest.mark.parametrize("seed", range(6))
def test_the_best_threshold_is_the_best_of_all(seed):
    case = random_case(seed)
    best = measure(best_threshold, case)
    scores = np.unique(case[0])
    tried = [-np.inf, *((scores[1:] + scores[:-1]) / 2)]
    values = [measure(partial(event_f1, threshold=float(threshold)), case)["event_f1"] for threshold in tried]
    assert best["event_f1"] == pytest.approx(max(values), abs=1e-15)
    assert measure(partial(event_f1, threshold=best["threshold"]), case)["event_f1"] == best["event_f1"]
    assert best["threshold"] == max(t for t, value in zip(tried, values, strict=True) if value == max(values))


def test_of_equal_scores_all_are_flagged():
    best = measure(best_threshold, ([1, 1, 1, 1], ".xx."))
    assert best["threshold"] == -math.inf
    assert best["event_f1"] == pytest.approx(2 / (1 + 2 + 1))


def test_delay_by_hand():
    got = measure(partial(detection_delay, threshold=0.5), (flags("!..!..!...."), ".xxx..xx.xx"))  # 2, 0, never
    assert got["mean_delay_bars"] == 1
    assert got["median_delay_bars"] == 1


# Affiliation ----------------------------------------------------------------------------------------------------------


def test_affiliation_by_hand():
    # One event [4, 6) in [0, 10): flagging it alone is perfect. Flagging the bar [8, 9): distances 2 to 3, of the zone
    # 2 (event) + 2 d is nearer: precision 1 - (2 + 2 * 2.5) / 10. The event is 2 to 4 away from it: y = 4..6 has
    # d = 8 - y, margins y and 10 - y: the smaller of both is d where y > 4 (d <= y), so recall = 1 - 2 * 3 / 10.
    perfect = measure(partial(affiliation, threshold=0.5), (flags("....!!...."), "....xx...."))
    assert perfect == dict.fromkeys(perfect, 1.0)
    near = measure(partial(affiliation, threshold=0.5), (flags("........!."), "....xx...."))
    assert near["affiliation_precision"] == pytest.approx(0.3, abs=1e-15)
    assert near["affiliation_recall"] == pytest.approx(0.4, abs=1e-15)
    nothing = measure(partial(affiliation, threshold=0.5), (flags(".........."), "....xx...."))
    assert nothing["affiliation_recall"] == nothing["affiliation_f1"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_affiliation_is_the_published_one(seed):
    _, score_events, as_events = published()
    scores, labels = random_case(seed, bars=120)
    for threshold in (0.0, 1.0, 2.0):
        predicted = as_events((scores > threshold).astype(int))
        theirs = score_events(predicted, as_events(labels.astype(int)), (0, len(labels)))
        got = measure(partial(affiliation, threshold=threshold), (scores, labels))
        assert got["affiliation_precision"] == pytest.approx(theirs["Affiliation_Precision"], abs=1e-12)
        assert got["affiliation_recall"] == pytest.approx(theirs["Affiliation_Recall"], abs=1e-12)


def test_affiliation_of_several_series_is_the_mean_over_their_events():
    one, two = random_case(0), random_case(2)
    together = measure(partial(affiliation, threshold=1.0), one, two, (np.ones(50) * 5, "." * 50))
    events = [np.diff(case[1].astype(int), prepend=0).clip(min=0).sum() for case in (one, two)]
    recall = [measure(partial(affiliation, threshold=1.0), case)["affiliation_recall"] for case in (one, two)]
    assert together["affiliation_recall"] == pytest.approx(np.average(recall, weights=events))
