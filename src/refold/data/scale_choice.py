"""Choose by which bars features are scaled, where the settings leave it to the table.

The choice looks at how many assets and bars there are, and never at their values.
"""

from collections.abc import Mapping

import numpy as np

from refold.data.bars.entries import find_feature
from refold.data.bars.expected import Timetables
from refold.data.recipe import Recipe, Scale
from refold.data.windows.split import PARTS, Part

LONG = 12
"""Look-backs that the median asset must have for a trailing scale: 12 years of daily bars with the usual 252. A part of
15 % of them is 1.8 look-backs long, and loses one."""


def choose_scale(assets: Mapping[str, int], recipe: Recipe, timetables: Timetables) -> Scale:
    """Choose a scale: that of each value's past if the assets have a long one, else that of each asset.

    Args:
        assets: name -> number of bars.
        recipe: how bars become windows; its scale is not used.
        timetables: of the assets.

    Returns:
        "pooled" for one asset, a panel and what is no price; "trailing" for several assets of LONG look-backs in the
        median, unless a feature is relative to the first bar of its window or bars lie within the day, where the hour
        moves a trailing scale; else "per_asset".
    """
    if recipe.layout == "panel" or len(assets) < 2 or recipe.checks.kind != "prices":
        return "pooled"
    relative = any(find_feature(entry).relative for entry in recipe.entries or ())
    long = float(np.median(list(assets.values()))) >= LONG * recipe.scale_lookback
    intraday = any(one.intraday for one in timetables.kinds)
    return "trailing" if long and not relative and not intraday else "per_asset"


def covers(segments: Mapping[Part, np.ndarray], starts: np.ndarray, window_size: int) -> bool:
    """Test whether each part has a window of at least half of the assets.

    Args:
        segments: part -> (S, 2) int64, first row and number of rows of each unbroken run.
        starts: (A,) first row of each asset.
        window_size: bars of a window.
    """
    for part in PARTS:
        held = segments[part][segments[part][:, 1] >= window_size, 0]
        if 2 * len(np.unique(np.searchsorted(starts, held, side="right"))) < len(starts):
            return False
    return True


def scale_in_words(scale: Scale, assets: int) -> str:
    """Say which scale was chosen, and why.

    Args:
        scale: the choice.
        assets: number of assets.
    """
    meaning = {
        "pooled": f"the training bars of {'the asset' if assets == 1 else 'all assets'}",
        "per_asset": "the training bars of the asset itself",
        "trailing": "the asset's own bars before it",
    }[scale]
    return f"scale of each value: {meaning} (data.scale={scale}, chosen for {assets:,} asset{'s' * (assets != 1)})"
