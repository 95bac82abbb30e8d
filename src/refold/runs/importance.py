"""Importance of each setting of a set of runs for a metric, measured with a random forest."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

FEWEST_RUNS = 12
"""With fewer runs a forest has nothing to go by when it predicts those that it was not fitted on."""

TREES = 200
REPEATS = 5


class Importance(NamedTuple):
    """Importance of settings, as a random forest measures it.

    Attributes:
        shares: setting -> rise of the squared error when its values are shuffled among the runs, in shares of the
            metric's variance, and the standard deviation of that rise over shuffles; largest first.
        explained: R2 of the forest on runs that its trees were not fitted on; NaN if nothing was measured.
        note: why nothing was measured, or what to think of it.
    """

    shares: dict[str, tuple[float, float]]
    explained: float
    note: str


def measure_importance(settings: Mapping[str, Sequence[Any]], values: Sequence[float]) -> Importance:
    """Measure the permutation importance of settings in a random forest (Breiman 2001), out of bag.

    Each run is predicted by the trees that were fitted without it, so a setting that only tells runs apart earns
    nothing. The seed may be among the settings: its importance is noise, and so is every smaller one.

    scikit-learn's permutation_importance shuffles one column and scores all rows. Here a name has several columns, and
    each row needs the trees that were not fitted on it, so the code around it would be as long as this.

    Args:
        settings: key -> its value in each of N runs; numbers are ordered, everything else is a name.
        values: (N,) finite, the metric of each run.
    """
    varying = {key: column for key, column in settings.items() if len({str(value) for value in column}) > 1}
    target = np.asarray(values, dtype=np.float64)
    if len(target) < FEWEST_RUNS:
        return Importance({}, np.nan, f"{len(target)} finished runs are too few to say; it takes {FEWEST_RUNS}")
    if not varying or np.ptp(target) == 0:
        return Importance({}, np.nan, "nothing varies between the finished runs")
    from sklearn.ensemble import RandomForestRegressor

    columns, owners = _encode(varying)
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=0.7, random_state=0).fit(columns, target)
    unseen = [np.setdiff1d(np.arange(len(target)), sample) for sample in forest.estimators_samples_]
    error = _out_of_bag_error(forest, unseen, columns, target)
    generator = np.random.default_rng(0)
    shares = {}
    for name in varying:
        rises = [
            _out_of_bag_error(forest, unseen, _shuffled(columns, owners == name, generator), target) - error
            for _ in range(REPEATS)
        ]
        shares[name] = (float(np.mean(rises) / target.var()), float(np.std(rises) / target.var()))
    explained = float(1 - error / target.var())
    note = f"the settings explain {explained:.0%} of the variance between runs that a tree had not seen"
    if explained < 0.2:
        note = "the settings explain next to nothing of the differences: what follows is noise"
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1][0])), explained, note)


def _encode(settings: Mapping[str, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Encode settings as columns of numbers (N, C), and return the setting of each column (C,); names are one-hot."""
    columns, owners = [], []
    for name, values in settings.items():
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            columns.append(np.asarray(values, dtype=np.float32))  # the trees compute with float32
            owners.append(name)
        else:
            texts = np.array([str(value) for value in values])
            for value in np.unique(texts):
                columns.append((texts == value).astype(np.float32))
                owners.append(name)
    return np.stack(columns, axis=1), np.array(owners)


def _out_of_bag_error(
    forest: "RandomForestRegressor", unseen: list[np.ndarray], columns: np.ndarray, target: np.ndarray
) -> float:
    """Compute the mean squared error of rows predicted only by the trees that were not fitted on them."""
    total, count = np.zeros(len(target)), np.zeros(len(target))
    for tree, rows in zip(forest.estimators_, unseen, strict=True):
        if len(rows):
            total[rows] += tree.predict(columns[rows], check_input=False)
            count[rows] += 1
    seen = count > 0
    return float(np.square(total[seen] / count[seen] - target[seen]).mean())


def _shuffled(columns: np.ndarray, of_setting: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a copy in which some columns are shuffled among the rows by one common permutation."""
    copy = columns.copy()
    copy[:, of_setting] = columns[generator.permutation(len(columns))][:, of_setting]
    return copy
