"""Choose by which bars features are scaled, where the settings leave it to the table.

The choice looks at how many assets there are, and never at their values.
"""

from refold.data.recipe import Recipe, Scale


def choose_scale(assets: int, recipe: Recipe) -> Scale:
    """Choose a scale: that of each asset where there are several.

    A trailing scale finds as much at fewer alarms where assets have years of bars, but costs a look-back of bars in
    each table that is scored. It is never chosen; it has to be named.

    Args:
        assets: number of assets.
        recipe: how bars become windows; its scale is not used.

    Returns:
        "pooled" for one asset, a panel and what is no price, else "per_asset".
    """
    several = recipe.layout != "panel" and assets > 1 and recipe.checks.kind == "prices"
    return "per_asset" if several else "pooled"


def scale_in_words(scale: Scale, assets: int) -> str:
    """Say which scale was chosen, and why.

    Args:
        scale: the choice, "pooled" or "per_asset".
        assets: number of assets.
    """
    meaning = {
        "pooled": f"the training bars of {'the asset' if assets == 1 else 'all assets'}",
        "per_asset": "the training bars of the asset itself",
    }[scale]
    return f"scale of each value: {meaning} (data.scale={scale}, chosen for {assets:,} asset{'s' * (assets != 1)})"
