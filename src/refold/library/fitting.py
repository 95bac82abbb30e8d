"""The detector of a run, fitted to the data that the run was trained on."""

from typing import TYPE_CHECKING

from refold.data.part_bars import part_bars
from refold.scoring.detector import Detector

if TYPE_CHECKING:
    from refold.data import WindowDataModule


def fit_to_data(detector: Detector, data: "WindowDataModule") -> Detector:
    """Fit score and threshold to the training and validation parts.

    Args:
        detector: not fitted.
        data: of the run, set up.

    Returns:
        The detector itself.

    Raises:
        DataError: a part has too few bars.
        ConfigError: validation has too few scores for the threshold.
    """
    if detector.score_function.reads_planted:
        parts = part_bars(data.source.load(), data.recipe)
        detector.fit_planted(parts["train"], parts["val"])
    series = data.train_windows.series
    return detector.fit_series((series, data.segments("train")), (series, data.segments("val")))
