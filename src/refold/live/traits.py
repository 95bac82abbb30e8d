"""The properties that a run gives each asset: scale, level, rarity, peers and timetable. Bars do not change them.

Letters: A assets, F features.
"""

import numpy as np

from refold.data.bars.checks import Checks
from refold.data.bars.expected import NOTHING
from refold.data.windows.scaler import LEAST_SHARE, AssetScaler, TrailingScaler
from refold.live.peers import Peers
from refold.scoring.detector import Detector


class Traits:
    """Look up what a run says of its assets, by their places.

    Args:
        detector: fitted.
        peers: name the columns of peers.

    Attributes:
        kind: (A,) number of the asset's kind among its peers, -1 for none.
        column: (A,) column of `Peers.counts` that holds its peers' bars.
        timetable: (A,) number of its timetable, -1 for none.
        limit: (A,) microseconds from which on a step is longer than its interval; infinite for none.
        short: (A,) microseconds below which a step is shorter than its interval; 0 for none.
        mean: (A, F) of its scale.
        std: (A, F) of its scale; of a trailing one the least.
        level: (A,) as fitted.
        begin: (A,) where the tail of a threshold that learns begins; NaN for others.
        known: (A,) whether the run was trained on it.
        alone: (A,) whether its scores are ranked among those of its own bars.
    """

    def __init__(self, detector: Detector, peers: Peers) -> None:
        self.detector = detector
        self.peers = peers
        self.timetables = detector.recipe.checks.timetables or NOTHING
        F = len(detector.features)
        self.kind, self.column, self.timetable = (np.empty(0, dtype=np.int64) for _ in range(3))
        self.limit, self.short, self.level, self.begin = (np.empty(0) for _ in range(4))
        self.mean, self.std = np.empty((0, F)), np.empty((0, F))
        self.known, self.alone = np.empty(0, dtype=bool), np.empty(0, dtype=bool)

    @property
    def checks(self) -> Checks:
        """The checks of the bars."""
        return self.detector.recipe.checks

    def add(self, names: list[str]) -> None:
        """Add the assets of the places that are not known yet.

        Args:
            names: of all places.
        """
        new = names[len(self.level) :]
        if not new:
            return
        found = [self.timetables.find(name) for name in new]
        kinds, scales = self.timetables.kinds, [self._scale(name) for name in new]
        thresholds = [self.detector.threshold.of(name) for name in new]
        rarity = self.detector.rarity
        known = set(self.detector.validation.get("asset_names", ()))
        columns = {
            "kind": [self.timetables.apart.get(name, -1) for name in new],
            "column": [self.peers.column(name) for name in new],
            "timetable": [-1 if one is None else kinds.index(one) for one in found],
            "limit": [np.inf if one is None else 1.25 * one.seconds * 1e6 for one in found],
            "short": [0.0 if one is None else one.seconds / 1.5 * 1e6 for one in found],
            "level": [float(one.level) for one in thresholds],
            "begin": [float(getattr(one, "begin", np.nan)) for one in thresholds],
            "mean": [mean for mean, _ in scales],
            "std": [std for _, std in scales],
            "known": [not known or name in known for name in new],
            "alone": [rarity is not None and rarity.ranks_alone(name) for name in new],
        }
        for name, values in columns.items():
            own = getattr(self, name)
            setattr(self, name, np.concatenate([own, np.array(values, dtype=own.dtype)]))

    def _scale(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        scaler = self.detector.scaler
        if not isinstance(scaler, AssetScaler):
            return scaler.mean.numpy(), scaler.std.numpy()
        own = scaler.of(name)
        least = LEAST_SHARE if isinstance(scaler, TrailingScaler) else 1.0
        return own.mean.numpy(), own.std.numpy() * least
