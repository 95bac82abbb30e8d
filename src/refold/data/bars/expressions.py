"""Features that a user writes in polars' SQL expression language, such as `close - future`."""

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from refold.errors import DataError

LONGEST = 2_000
"""Characters of the longest expression that is parsed: one that is longer, or nested deeper, exhausts the stack."""

_READS = re.compile(r"\bselect\b|\(\s*(?:from|table)\b|\bread_\w+|/\*|--", re.IGNORECASE)
"""Subqueries: polars runs them while it parses, and read_csv('...') in one reads any file. Comments would hide them."""

_WRITES = re.compile(r"\b(?:\w*pad|\w*replace|repeat)\b[\s\"`]*\(", re.IGNORECASE)
"""Functions that make texts of any length, and so fill the memory."""


def parse(name: str, text: str) -> pl.Expr:
    """Parse an expression, and refuse one that cannot be a feature whatever the data.

    Args:
        name: of the feature, for messages.
        text: in polars' SQL expression language.

    Returns:
        The expression.

    Raises:
        DataError: the text is too long, does not parse, reads a table of its own, makes long texts, aggregates over a
            whole column, or reads a later row.
    """
    if len(text) > LONGEST:
        raise DataError(
            f"data.features has {name}: its expression has {len(text):,} characters; it must have at most {LONGEST:,}"
        )
    where = f"data.features has {name}: its expression {text!r}"
    if found := _READS.search(text):
        raise DataError(
            f"{where} has {found.group()!r}; an expression computes with the columns of the table, without subqueries, "
            f"files and comments"
        )
    if found := _WRITES.search(text):
        raise DataError(f"{where} has {found.group()!r}, which makes texts; it must give one number per row")
    try:
        expression = pl.sql_expr(text)
        wildcard = expression.meta.has_multiple_outputs()
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{where} does not parse as one SQL expression: {reason}") from None
    if wildcard:
        raise DataError(f"{where} stands for several columns; it must give one number per row")
    if "*" in expression.meta.root_names():
        raise DataError(f"{where} stands for all columns; it must give one number per row")
    try:
        nodes = list(_nodes(expression))
    except RecursionError:
        raise DataError(f"{where} is nested too deeply; make it of several features") from None
    for kind, detail in nodes:
        if kind == "Agg":
            raise DataError(
                f"{where} aggregates over a whole column ({detail}), and so over later rows; a trailing one is written "
                f"AVG(x) OVER (ORDER BY timestamp ROWS BETWEEN 19 PRECEDING AND CURRENT ROW), with lookback: 20"
            )
        if kind == "Lead":
            raise DataError(f"{where} looks ahead: it reads a row that comes {detail} later")
    if not expression.meta.root_names():
        raise DataError(f"{where} names no column of the table")
    return expression


def _nodes(expression: pl.Expr) -> Iterator[tuple[str, str]]:
    """Yield ("Agg", function) of each aggregation, and ("Lead", rows) of each shift to a later row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = json.loads(expression.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        return  # then the test on the training rows alone finds it
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            if isinstance(node.get("Agg"), dict):
                yield "Agg", next(iter(node["Agg"]), "").lower()
            if "Len" in node:
                yield "Agg", "count"
            moved = node.get("input", []) if node.get("function") in ("Shift", "ShiftAndFill") else []
            # a running sum compares neighbouring times, which looks at no later value
            if moved and moved[0] != {"Column": "timestamp"} and (rows := _integer(moved[1:2])) < 0:
                yield "Lead", str(-rows)


def _integer(node: Any) -> int:
    """Return the first whole number below a node, 0 if there is none."""
    if isinstance(node, int) and not isinstance(node, bool):
        return node
    parts = node if isinstance(node, list) else list(node.values()) if isinstance(node, dict) else []
    return next((number for part in parts if (number := _integer(part))), 0)
