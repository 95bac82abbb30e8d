"""The settings that decide how bars become windows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from refold.bounds import at_least, within
from refold.data.bars.checks import Checks
from refold.data.bars.entries import Entry, choose, find_all, find_feature, name_of
from refold.data.bars.features import longest_lookback
from refold.data.windows.split import SplitRule

Overnight = Literal["keep", "mask", "break"]
"""Ways to treat the first bar after the market was closed, of bars within the day: see `Recipe`."""

Layout = Literal["per_asset", "panel"]
Scale = Literal["pooled", "per_asset", "trailing"]

MinAssets = Annotated[float, within(0, 1, open_start=True)]
WindowSize = Annotated[int, at_least(1)]
MaxMasked = Annotated[int, at_least(0)]
Stride = Annotated[int, at_least(1)]
Fold = Annotated[int, at_least(0)]
ScaleLookback = Annotated[int, at_least(2)]


@dataclass(frozen=True)
class Recipe:
    """Settings of the preparation of windows. Together with the bars they decide the result.

    Attributes:
        entries: of data.features; None means that they are chosen from the columns of the bars.
        layout: "per_asset" makes each asset a series of F features, "panel" all A assets one series of A x F.
        min_assets: share of the assets that must have a bar at a moment of a panel, in (0, 1].
        window_size: bars of a window, at least 1.
        max_masked: bars without values that a window may hold in a row, at least 0.
        split: the rule that divides the calendar into parts.
        fold: number of the fold, for splits that have several.
        checks: the checks and their policies.
        overnight: what becomes of the first bar of a session, of bars within the day. "keep" leaves it, and its returns
            span the night. "mask" masks it where a feature spans the night, and windows run on over it. "break" ends
            the series at each close.
        scale: "pooled" scales all assets by the training rows of all, "per_asset" each by its own, "trailing" each
            value by the bars before it. None means that it is chosen from the number of assets and bars.
        scale_lookback: number of those bars, at least 2.
        horizon: bars after each window that belong to it, because they are predicted, at least 0.
    """

    entries: tuple[Entry, ...] | None
    layout: Layout
    min_assets: MinAssets
    window_size: WindowSize
    max_masked: MaxMasked
    split: SplitRule
    fold: Fold
    checks: Checks
    overnight: Overnight
    scale: Scale | None
    scale_lookback: ScaleLookback
    horizon: int = 0

    @property
    def span(self) -> int:
        """Bars of a window and of the horizon after it."""
        return self.window_size + self.horizon

    @property
    def scale_bars(self) -> int:
        """Bars before a row that its scale depends on."""
        return self.scale_lookback if self.scale == "trailing" else 0

    @property
    def bars_before(self) -> int:
        """Bars before a row that its scaled features depend on."""
        return longest_lookback([find_feature(entry) for entry in self.entries or ()]) + self.scale_bars - 1

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the F features of a bar; none as long as they are to be chosen."""
        return tuple(name_of(entry) for entry in self.entries or ())

    def resolved(self, columns: Sequence[str]) -> "Recipe":
        """Return the recipe for bars with some columns, with entries that mean the same features for any columns.

        Args:
            columns: names of the columns of values.

        Raises:
            DataError: there are no features, one is unknown or given twice, or needs another column.
        """
        entries = choose(columns, self.checks.kind) if self.entries is None else self.entries
        return replace(self, entries=tuple(feature.saved for feature in find_all(entries, columns)))
