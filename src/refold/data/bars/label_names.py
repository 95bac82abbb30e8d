"""Columns that hold labels by their names: what is known of a bar must not become a feature unseen."""

from collections.abc import Mapping, Sequence

import polars as pl

from refold.data.bars.cells import say

_NAMES = (
    "label", "labels", "is_label", "anomaly", "anomalies", "is_anomaly", "anomaly_label", "anomalous", "changepoint",
    "change_point", "is_changepoint", "outlier", "outliers", "is_outlier", "attack", "is_attack", "fault", "is_fault",
    "ground_truth",
)  # fmt: skip
"""Usual names of labels, in lower case, with underscores for blanks and dashes."""


def named_like_labels(names: Sequence[str]) -> list[str]:
    """Return the names that columns of labels usually have.

    Args:
        names: of columns.
    """
    plain = {name: name.strip().lower().replace(" ", "_").replace("-", "_") for name in names}
    return [name for name in names if plain[name] in _NAMES]


def holds_zeros_and_ones(column: pl.Series) -> bool:
    """Test whether a column holds 0 and 1 alone, as numbers, truth values or texts, and at least one of them.

    Args:
        column: of any type.
    """
    if column.dtype == pl.Boolean:
        return column.null_count() < len(column)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Categorical, pl.Enum)):
        return False
    texts = column.cast(pl.String).str.strip_chars().str.to_lowercase().replace({"true": "1", "false": "0", "": None})
    there = texts.drop_nulls()
    return len(there) > 0 and bool(there.cast(pl.Float64, strict=False).is_in([0.0, 1.0]).fill_null(False).all())


def tell_labels(names: Sequence[str], found: Mapping[str, str], where: str, *, wide: bool) -> None:
    """Say in the log which columns of a table of prices are named like labels, and what is made of them.

    Args:
        names: of the columns.
        found: part -> column; nothing is said if a column of labels is among them.
        where: what the table is, for the line.
        wide: whether each column without a part is an asset.
    """
    labels = [name for name in named_like_labels(names) if name not in found.values()]
    if labels and "label" not in found:
        part = "read as an asset, though" if wide else "not used, since"
        say(
            f"{where}: {part} it is named like a label: {', '.join(map(repr, labels))}; "
            f"data.source.table.columns.label={labels[0]} measures against it"
        )
