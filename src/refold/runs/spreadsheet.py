"""Text cells of CSV files that a spreadsheet must not take for formulas."""

import re

FORMULA_START = r"^[=+\-@\t\r]"
"""First character of a cell that a spreadsheet computes. For a column of polars:
`pl.col(name).str.replace(FORMULA_START, "'${0}")`."""


def escape_formula(text: str) -> str:
    """Return a text that a spreadsheet shows as it is: a quote stands before one that would begin a formula.

    Args:
        text: any text that comes from names, such as `=HYPERLINK(...)`; numbers are not given to this function.
    """
    return re.sub(FORMULA_START, r"'\g<0>", text)
