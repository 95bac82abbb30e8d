"""A run and its challenger on the newest bars, which neither was fitted to: which of them to keep, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from omegaconf import DictConfig, OmegaConf

from refold.config.build import build_data, build_drift_test, build_source
from refold.config.change import choose_anew
from refold.config.compose import CONF, compose_settings
from refold.errors import DataError
from refold.library.judge import Judge
from refold.runs.settings import give_all_anew, override, refuse_withheld, to_plain
from refold.scoring.scan import PIECE, add_to_drift, made_from, pieces
from refold.training.facts import describe_part

if TYPE_CHECKING:
    from refold.library.run import Run

FRACTION = "refold.data.windows.split.ByFraction"
"""The split that grows with the data: it holds back the newest part, whatever has been added."""

FEWEST_STRETCHES = 10
"""Stretches of time that a difference of errors needs to be more than luck."""

BEYOND_LUCK = 2.0
"""Standard errors of the mean difference over stretches."""

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Challenge:
    """The outcome of a comparison.

    Attributes:
        challenger: run directory of the challenger.
        keep: "champion" or "challenger".
        reason: why, in a sentence.
        first: first moment of the bars that both were compared on.
        last: last of them.
        bars: their number.
        measures: row -> {"champion": value, "challenger": value}; None where there is no value.
    """

    challenger: Path
    keep: str
    reason: str
    first: str
    last: str
    bars: int
    measures: dict[str, dict[str, Any]]


def challenger_settings(champion: "Run", given: Mapping[str, str]) -> DictConfig:
    """Return the settings of a challenger: those of a run, with newer data and a split that holds the newest back.

    Args:
        champion: the run.
        given: data.* and trainer.* that are given anew, as on the command line.

    Returns:
        The configuration, without a section `run`. A run that was split by dates or folds is split by fraction, at the
        option's own shares.

    Raises:
        ConfigError: a setting cannot be given anew, or a password has to be.
    """
    cfg = OmegaConf.create(to_plain(champion.config))
    others = give_all_anew(cfg, dict(given))
    trainer = {key: value for key, value in others.items() if key.startswith("trainer.")}
    split = {key: value for key, value in others.items() if key.startswith("data.split.")}
    cfg = choose_anew(cfg, {key: value for key, value in others.items() if key not in {**trainer, **split}}, CONF)
    if cfg.data.split["_target_"] != FRACTION:
        cfg.data.split = compose_settings(["data/split=fraction"]).data.split
        cfg.data.fold = 0
    for key, value in {**trainer, **split}.items():
        cfg = override(cfg, f"{key}={value}")
    cfg.resume = None
    used = {name: section for name, section in to_plain(cfg).items() if name != "run"}
    refuse_withheld(used, "", "the same command with")
    return cfg


def refuse_seen(champion: "Run", cfg: DictConfig) -> None:
    """Refuse data whose newest part the champion was fitted to, before anything is trained on it.

    Args:
        champion: the run.
        cfg: settings of the challenger.

    Raises:
        DataError: there are no bars that neither run would be fitted to.
    """
    seen = _last_fitted(champion)
    data = build_data(cfg)
    data.setup()
    last = describe_part(data.test_windows)["last"]
    if datetime.fromisoformat(last) <= datetime.fromisoformat(seen):
        raise DataError(
            f"the newest bars of the data, of {last}, are no newer than those that the run was fitted to, up to "
            f"{seen}: nothing is left to compare on; give newer bars with data.path=..."
        )


def compare_pair(champion: "Run", challenger: "Run", given: Mapping[str, str]) -> Challenge:
    """Compare two runs on the bars of the challenger's test part that the champion was not fitted to either.

    Args:
        champion: the run.
        challenger: trained on the newer data.
        given: settings of the data, the same for both.

    Raises:
        DataError: too few bars have a score of both.
    """
    settings = {key: value for key, value in given.items() if key.startswith("data.") and "split" not in key}
    seen, test = _last_fitted(champion), challenger.result["parts"]["test"]
    later = max(datetime.fromisoformat(text) for text in (seen, test["first"]))
    both = ((CHAMPION, champion), (CHALLENGER, challenger))
    found = {name: _score(run, settings, later) for name, run in both}
    keys = ["asset", "timestamp"]
    joined = found[CHAMPION].bars.join(found[CHALLENGER].bars, on=keys, suffix="_challenger").sort("timestamp")
    if joined["timestamp"].n_unique() < FEWEST_STRETCHES:
        raise DataError(
            f"{joined.height} bars after {later} have a score of both runs; a comparison needs {FEWEST_STRETCHES} "
            f"moments"
        )
    difference, errors = _errors(joined, champion.features)
    luck = _standard_error(difference, joined["timestamp"], champion.config.data.window_size)
    measures: dict[str, dict[str, Any]] = {
        "share of the variance that is not reconstructed": errors,
        "flagged share of these bars": {
            CHAMPION: float(joined["flagged"].to_numpy().mean()),
            CHALLENGER: float(joined["flagged_challenger"].to_numpy().mean()),
        },
        "flagged share of its validation part": {
            name: float(one.run.detector.validation["flagged_share"]) for name, one in found.items() if one.run.detector
        },
        "drift since its validation part": {name: one.drift for name, one in found.items()},
    }
    keep, reason = decide(float(difference.mean()), luck, measures["drift since its validation part"])
    times = joined["timestamp"]
    return Challenge(challenger.directory, keep, reason, str(times[0]), str(times[-1]), joined.height, measures)


def decide(difference: float, luck: float, drift: Mapping[str, Any]) -> tuple[str, str]:
    """Decide which run to keep.

    Args:
        difference: mean error of the challenger less that of the champion, in shares of the variance.
        luck: standard error of that mean; NaN if it is not known.
        drift: state of the bars for each run.

    Returns:
        The run's role, and the reason in a sentence.
    """
    told = f"{abs(difference):.4f} of the variance, {BEYOND_LUCK:g} standard errors are {BEYOND_LUCK * luck:.4f}"
    if abs(difference) > BEYOND_LUCK * luck:
        keep = CHALLENGER if difference < 0 else CHAMPION
        return keep, f"it reconstructs the newest bars better, by more than luck: {told}"
    if drift[CHAMPION] == "retrain" and drift[CHALLENGER] != "retrain":
        return CHALLENGER, (
            f"the errors do not differ by more than luck ({told}), but the bars have drifted away from the champion's "
            f"validation part, which its levels are from"
        )
    return CHAMPION, f"the errors do not differ by more than luck: {told}"


class _Scored(NamedTuple):
    """Scored bars of a run: timestamp, asset, flagged, truth and squared error of each feature; and their drift."""

    run: "Run"
    bars: pl.DataFrame
    drift: str | None


def _last_fitted(run: "Run") -> str:
    """Return the last moment that anything of a run was fitted to: of its training and validation parts."""
    parts = run.result.get("parts")
    if not parts or run.detector is None:
        raise DataError(f"{run.directory} has no result: a run that did not come to its end cannot be challenged")
    return max(parts["train"]["last"], parts["val"]["last"])


def _score(run: "Run", settings: Mapping[str, str], later: datetime) -> _Scored:
    """Score all bars with a run, and keep those that come later than a moment."""
    judge = Judge(run, settings=settings)
    detector, found = judge.detector, []
    drift = build_drift_test(judge.cfg, detector)
    bars = judge.read_bars(judge.source or build_source(judge.cfg))
    for here in pieces(detector, bars, PIECE):
        series, made = here.made.series, here.made
        scored = detector.score_series(series, made.segments, made.origin, short_runs=made.short_runs)
        truth = detector.scaler.at(series, np.arange(len(series.values))).inverse_transform(series.values.cpu())
        truth = (detector.by_asset(truth) if detector.recipe.layout == "panel" else truth).numpy()
        counted = made_from(scored, here.kept) & np.isfinite(scored.score)
        newer = (here.part["timestamp"].cast(pl.Datetime("us")) > later).to_numpy()
        counted[counted] = newer[scored.origin[counted]]
        if drift is not None:
            add_to_drift(drift, detector, series, scored, counted)
        error = np.square(truth - scored.reconstruction)
        columns = [pl.Series("flagged", detector.flag(scored)[1][counted])]
        for n, name in enumerate(detector.features):
            columns += [pl.Series(f"true/{name}", truth[counted, n]), pl.Series(f"error/{name}", error[counted, n])]
        own = here.part[scored.origin[counted]].select("timestamp", pl.col("asset").cast(pl.String))
        found.append(own.with_columns(columns))
    if drift is not None:
        drift.finish()
    return _Scored(run, pl.concat(found), None if drift is None else drift.pooled)


def _errors(joined: pl.DataFrame, features: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
    """Compare errors in shares of the variance of each feature on the bars of both.

    Args:
        joined: bars of both runs; the challenger's columns end in _challenger.
        features: their names.

    Returns:
        Error of the challenger less that of the champion (N,), and the mean error of each.
    """
    shares = {CHAMPION: np.zeros(joined.height), CHALLENGER: np.zeros(joined.height)}
    for name in features:
        variance = max(float(np.var(joined[f"true/{name}"].to_numpy().astype(np.float64))), 1e-30)
        for role, suffix in ((CHAMPION, ""), (CHALLENGER, "_challenger")):
            shares[role] += joined[f"error/{name}{suffix}"].to_numpy() / variance / len(features)
    means = {role: float(values.mean()) for role, values in shares.items()}
    return shares[CHALLENGER] - shares[CHAMPION], means


def _standard_error(difference: np.ndarray, times: pl.Series, window_size: int) -> float:
    """Estimate the standard error of a mean over bars that depend on their neighbours.

    Bars of the same stretch of time, two windows long or a tenth of all, count as one, whatever their assets.

    Args:
        difference: (N,).
        times: (N,) sorted.
        window_size: T.
    """
    moment = times.rank("dense").to_numpy().astype(np.int64) - 1
    stretch = moment // max(1, min(2 * window_size, (int(moment[-1]) + 1) // FEWEST_STRETCHES))
    counts = np.bincount(stretch)
    totals = np.bincount(stretch, weights=difference - difference.mean())
    stretches = len(counts)
    if stretches < FEWEST_STRETCHES:
        return float("nan")
    return float(np.sqrt(np.square(totals).sum() * stretches / (stretches - 1)) / len(difference))
