"""The file around every page: template, style, script and data in one HTML file that needs no network.

Both plotly.js and the data stand in the page as gzip in base64, which browsers since 2023 unpack by themselves: that is
a third of their size as text.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

_HERE = Path(__file__).parent

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def assemble_page(title: str, payload: Mapping[str, Any], name: str = "page") -> str:
    """Return the text of a self-contained HTML page that draws some data.

    Args:
        title: title of the page; any text.
        payload: values that the page's script draws; JSON values, without NaN and infinities.
        name: name of the template and of the script in this folder, "page" or "compare".

    Raises:
        ValueError: the payload holds a number that JSON does not have.
    """
    template = (_HERE / f"{name}.html").read_text(encoding="utf-8")
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": "".join((_HERE / script).read_text(encoding="utf-8") for script in ("common.js", f"{name}.js")),
        "data": _packed(text.encode()),
        "plotly": _plotly(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)  # one pass: a title may hold {{data}}


def _packed(raw: bytes) -> str:
    """Compress bytes with gzip and encode them in base64."""
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


@cache
def _plotly() -> str:
    """Return the compressed source of plotly.js."""
    from plotly.offline import get_plotlyjs  # takes half a second to import

    return _packed(get_plotlyjs().encode())


def typed_array(values: Any, dtype: str) -> dict[str, str]:
    """Encode numbers as the typed array that plotly.js reads.

    Args:
        values: any array of numbers, (N,) or (N, 1).
        dtype: "f4" or "f8".
    """
    little_endian = np.asarray(values, dtype=f"<{dtype}")
    return {"dtype": dtype, "bdata": base64.b64encode(little_endian.tobytes()).decode()}


def json_number(value: Any) -> float | None:
    """Return a number as a float, and None for None, NaN and infinities, which JSON does not have."""
    return float(value) if value is not None and np.isfinite(value) else None


def milliseconds(column: str) -> pl.Expr:
    """Return an expression of a column of times as milliseconds since 1970, of the clock on the wall."""
    return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.Float64).alias(column)


def time_zone(scan: pl.LazyFrame) -> str | None:
    """Return the time zone of the column timestamp; None if it has none."""
    return getattr(scan.collect_schema()["timestamp"], "time_zone", None)


def wall_clock(frame: Frame, zone: str | None, *columns: str) -> Frame:
    """Replace times of any zone by what a clock in one zone shows then.

    Args:
        frame: a frame with columns of times; those without a zone stay as they are.
        zone: name of the zone, such as "America/New_York"; None for UTC.
        columns: names of the columns.
    """
    zoned = [name for name in columns if getattr(frame.collect_schema()[name], "time_zone", None)]
    return frame.with_columns(
        pl.col(name).dt.convert_time_zone(zone or "UTC").dt.replace_time_zone(None) for name in zoned
    )
