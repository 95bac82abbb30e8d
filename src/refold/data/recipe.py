"""The settings that decide how bars become windows."""

from dataclasses import dataclass
from typing import Literal

from refold.data.bars.checks import Checks
from refold.data.windows.split import Split

Layout = Literal["per_asset", "panel"]


@dataclass(frozen=True)
class Recipe:
    """Settings of the preparation of windows. Together with the bars they decide the result.

    Attributes:
        features: names of the features.
        layout: "per_asset" makes each asset a series of F features, "panel" all A assets one series of A x F.
        min_assets: share of the assets that must have a bar at a moment of a panel, in (0, 1].
        window_size: bars of a window, at least 1.
        max_masked: bars without values that a window may hold in a row, at least 0.
        split: the rule that divides the calendar into parts.
        fold: number of the fold, for splits that have several.
        checks: the checks and their policies.
    """

    features: tuple[str, ...]
    layout: Layout
    min_assets: float
    window_size: int
    max_masked: int
    split: Split
    fold: int
    checks: Checks
