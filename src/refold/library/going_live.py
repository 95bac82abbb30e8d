"""A run's parts as a live detector."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from refold.config.build import build_checks, build_detector, build_drift_test, build_table
from refold.data.bars.table import Table
from refold.library.chosen import not_own
from refold.library.frames import FrameSource, to_polars
from refold.library.judge import Judge
from refold.live.live_detector import LiveDetector, Origin
from refold.scoring.protocols import TrainedRun

if TYPE_CHECKING:
    from refold.scoring.detector import Detector


def go_live(run: TrainedRun, settings: Mapping[str, Any], fitted: Mapping[str, Any] | None = None) -> LiveDetector:
    """Make a live detector of a run.

    Args:
        run: finished.
        settings: key -> value, to use in place of the run's own.
        fitted: state of the score and threshold that were fitted for these settings before; None fits them anew where
            the settings ask for it.

    Raises:
        RefoldError: a setting is wrong, or what it asks for needs later bars or those of other assets.
    """
    given = not_own(run, settings)
    # a run on a file reads live bars as it read that: no option file is composed, which takes half a second
    reads_files = {"path", "table"} <= set(run.config.data.source) and not any(key.startswith("data.") for key in given)
    judge = Judge(run, None if reads_files else pl.DataFrame(), given)
    if fitted is not None and run.detector is not None:
        detector, state = _refitted(run.detector, judge, fitted), fitted
    else:
        detector = judge.detector
        state = detector.state_dict() if judge.refits or run.detector is None else None
    table = build_table(judge.cfg).with_optional_label()
    table.start = table.end = None  # of the bars that it was trained on; live ones are later
    drift = build_drift_test(judge.cfg, detector)
    origin = Origin(_key(run), given, state)
    return LiveDetector(detector, table, lambda bars: _canonical(bars, table), origin, drift=drift)


def _refitted(own: "Detector", judge: Judge, fitted: Mapping[str, Any]) -> "Detector":
    """Return the detector that was fitted for some settings before, with the windows and times of the run's own."""
    detector = build_detector(judge.cfg, own.autoencoder, own.recipe, own.scaler, columns=[])
    detector.load_state_dict(dict(fitted))
    checks = build_checks(judge.cfg).when_scoring(kept=judge.given_policies)
    return detector.checking(checks.knowing(own.recipe.checks.timetables))


def _canonical(bars: Any, table: Table) -> pl.DataFrame:
    """Read a user's table, of polars or pandas."""
    return FrameSource(to_polars(bars), table).load()


def _key(run: TrainedRun) -> str:
    """Return a hash of what a run's verdicts depend on: its weights, its scale, its settings and its features."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weights in sorted(run.autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().numpy().tobytes())
    for part in (run.scaler.mean, run.scaler.std):
        digest.update(part.numpy().tobytes())
    digest.update(repr((str(run.config.run.id), run.features)).encode())
    return digest.hexdigest()
