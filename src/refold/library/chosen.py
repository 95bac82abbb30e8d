"""A run with another score, threshold or alignment than its own."""

from collections.abc import Mapping
from copy import copy
from typing import Any, TypeVar

from refold.library.judge import Judge
from refold.scoring.protocols import TrainedRun

AnyRun = TypeVar("AnyRun", bound=TrainedRun)

PARTS = ("score", "threshold", "alignment")


def not_own(run: TrainedRun, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that the run does not have already, so that something must be fitted for them.

    Args:
        run: finished.
        settings: key -> value; score and threshold by the names of their options.
    """
    own = {**run.config.run.get("choices", {}), "alignment": run.config.alignment}
    return {key: str(value) for key, value in settings.items() if key not in PARTS or str(value) != own.get(key)}


def with_chosen(run: AnyRun, settings: Mapping[str, Any]) -> tuple[AnyRun, dict[str, str]]:
    """Return a run whose detector is fitted anew, to the run's own data, for other settings.

    Args:
        run: finished; it stays as it is.
        settings: score, threshold, alignment, and keys below the first two, with values.

    Returns:
        The run, the same one if it has all that is chosen, and the settings that it had not.

    Raises:
        RefoldError: a setting is wrong, or the run's data cannot be read.
    """
    anew = not_own(run, settings)
    if not anew:
        return run, anew
    other = copy(run)
    other.detector = Judge(run, None, anew).detector
    return other, anew
