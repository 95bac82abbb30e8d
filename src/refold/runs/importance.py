"""Which settings mattered: how much worse a forest predicts the metric of a run when it is lied to about a setting."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

FEWEST_RUNS = 12
"""With fewer runs, a forest that is asked about those it was not fitted on has nothing to go by."""

TREES = 200
REPEATS = 5


class Importance(NamedTuple):
    """shares: setting -> rise of the squared error, in shares of the metric's variance, and its standard deviation over
    shuffles; largest first. explained: R2 of the forest on runs that its trees had not seen. note: why there is
    nothing, or what to think of it."""

    shares: dict[str, tuple[float, float]]
    explained: float
    note: str


def importance(settings: dict[str, Sequence[Any]], values: Sequence[float]) -> Importance:
    """Permutation importance of settings in a random forest (Breiman 2001), measured out of bag.

    Out of bag: each run is predicted by the trees that were fitted without it, so a setting that only tells runs apart
    earns nothing. The seed is a setting like others here: what it is worth is noise, and so is all that is worth less.

    Args: settings: key -> its value in each of N runs; numbers are ordered, all else is named. values: (N,) the metric.
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
    unseen = _unseen_by_tree(forest, len(target))
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


def _encode(settings: dict[str, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Columns of numbers, (N, C), and the setting that each is of, (C,); of texts, one column per value."""
    columns, owners = [], []
    for name, values in settings.items():
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            columns.append(np.asarray(values, dtype=np.float32))  # what the trees compute with
            owners.append(name)
        else:
            texts = np.array([str(value) for value in values])
            for value in np.unique(texts):
                columns.append((texts == value).astype(np.float32))
                owners.append(name)
    return np.stack(columns, axis=1), np.array(owners)


def _unseen_by_tree(forest: Any, count: int) -> list[np.ndarray]:
    """For each tree, the rows that were not in its sample."""
    return [np.setdiff1d(np.arange(count), sample) for sample in forest.estimators_samples_]


def _out_of_bag_error(forest: Any, unseen: list[np.ndarray], columns: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error where each row is predicted by the trees that did not see it."""
    total, count = np.zeros(len(target)), np.zeros(len(target))
    for tree, rows in zip(forest.estimators_, unseen, strict=True):
        if len(rows):
            total[rows] += tree.predict(columns[rows], check_input=False)
            count[rows] += 1
    seen = count > 0
    return float(np.square(total[seen] / count[seen] - target[seen]).mean())


def _shuffled(columns: np.ndarray, of_setting: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A copy in which the rows of some columns are exchanged together."""
    copy = columns.copy()
    copy[:, of_setting] = columns[generator.permutation(len(columns))][:, of_setting]
    return copy
