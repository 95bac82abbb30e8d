"""The verdict on each bar, as Python gets it."""

import polars as pl

from refold.data.bars.table import LABEL
from refold.library.scoring_result import Scoring
from refold.scoring.events import CONTRIBUTION, OTHER, blame


def verdicts(scoring: Scoring) -> pl.DataFrame:
    """Return a row per bar: score, level, verdict, reason, rarity, kind and the features to blame; see `Run.score`.

    Args:
        scoring: whose tables are in memory.
    """
    table = scoring.scores.collect()
    shares = [name for name in table.columns if name.startswith(CONTRIBUTION)]
    features = [name.removeprefix(CONTRIBUTION) for name in shares]
    flagged = table["verdict"].to_list()
    blamed = iter(table.filter("verdict").select(shares).to_numpy()) if shares else iter(())
    to_blame = [";".join(blame(next(blamed), features)) if flag and shares else None for flag in flagged]
    return table.select(
        "timestamp",
        "asset",
        "score",
        pl.col("threshold").alias("level"),
        pl.col("verdict").alias("flagged"),
        "reason",
        "rarity",
        *(["probability"] if "probability" in table.columns else []),
        pl.when("verdict").then(pl.col("kind").fill_null(OTHER)).alias("kind"),
        pl.Series("to_blame", to_blame, dtype=pl.String),
        *([LABEL] if LABEL in table.columns else []),
        *(["reconstructed_close"] if "reconstructed_close" in table.columns else []),
        *(["part"] if "part" in table.columns else []),
    )
