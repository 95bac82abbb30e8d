"""Refuse what can be said of a bar only when later bars, or those of other assets, have come."""

from refold.errors import ConfigError
from refold.scoring.detector import Detector


def refuse_ahead(detector: Detector) -> None:
    """Refuse what cannot be said of a bar when it comes.

    Raises:
        ConfigError: names the setting, and what to choose.
    """
    recipe, score = detector.recipe, detector.score_function
    several = len(detector.validation.get("asset_names", ())) > 1
    if detector.alignment != "last":
        raise ConfigError(
            f"alignment is {detector.alignment}; it must be last for live bars: the others wait for windows that later "
            f"bars complete. Give alignment=last"
        )
    if recipe.layout == "panel":
        raise ConfigError(
            "data.layout is panel; a live bar is judged when it comes, and a window of a panel needs those of all "
            "assets: train with data.layout=per_asset"
        )
    if score.predicts:
        raise ConfigError(
            f"score is {type(score).__name__}: it compares a bar with what the window before it predicts, which live "
            f"bars are not; give another score, such as score=gauss_s"
        )
    if score.reads_planted:
        raise ConfigError(
            f"score is {type(score).__name__}: a live verdict has a score and no named kind; give another score, such "
            f"as score=gauss_s"
        )
    if score.after:
        raise ConfigError(
            f"score is {type(score).__name__}: it looks at the {score.after} bars after a bar, which a live bar does "
            f"not have. Give score.centred=false, or another score"
        )
    if several and recipe.checks.policies["split_like"] in ("mask", "drop", "error"):
        raise ConfigError(
            f"data.checks.policies.split_like is {recipe.checks.policies['split_like']}; it must be warn for live bars "
            f"of several assets: whether a jump is a split depends on the bars of the others at its moment"
        )
