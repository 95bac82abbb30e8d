"""Read the bars of a feed: mappings of columns to values, or a table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.cells import CellReader
from refold.data.bars.table import LABEL, OHLCV, PRICES, Table
from refold.errors import DataError
from refold.live.clock import Clock

ASSETS = ("unique_id", "series_id", "item_id")
"""Usual names of the column that tells series apart, beside those of prices."""


class Bar(NamedTuple):
    """A bar that was read.

    Attributes:
        asset: name.
        time: microseconds.
        values: (C,) NaN where there is none.
        absent: (C,) bool, True where a value lacks; NaN that came as such is a value.
    """

    asset: str
    time: int
    values: Sequence[float]
    absent: Sequence[bool]


class Unread(NamedTuple):
    """A bar that cannot be read: what is known of it, and what is wrong."""

    asset: str | None
    time: int | None
    note: str


class BarReader:
    """Read bars by the settings of a run's table.

    Args:
        table: settings, data.source.table.
        clock: of the times; the first bar sets its kind.
        needed: columns that the run's features are made of.
        single: name of the asset of bars without one; None if the run has several.

    Attributes:
        columns: of the values, in order; empty before the first bar, which may have prices beside the needed ones.
    """

    def __init__(self, table: Table, clock: Clock, needed: Sequence[str], single: str | None) -> None:
        self.table, self.clock, self.needed, self.single = table, clock, tuple(needed), single
        self.columns: tuple[str, ...] = ()
        self._found: dict[tuple[str, ...], dict[str, str]] = {}
        self._last: tuple[Any, int] | None = None

    def settle(self, present: Iterable[str]) -> None:
        """Settle the columns of values by those of the first bars."""
        if self.columns:
            return
        there = {*present, *self.needed}
        self.columns = tuple(name for name in OHLCV if name in there) if self.table.kind == "prices" else self.needed

    def read(self, bar: Any) -> Bar | Unread:
        """Read a bar.

        Args:
            bar: column -> value, under the names that the run's table has or usual ones.
        """
        if not isinstance(bar, Mapping):
            return Unread(None, None, f"a bar is a {type(bar).__name__}; it must be a mapping of columns to values")
        try:
            found = self._columns(bar)
        except DataError as error:
            return Unread(None, None, str(error))
        self.settle(found)
        asset = bar.get(found["asset"]) if "asset" in found else self.single
        asset = None if asset is None or asset == "" else str(asset)
        try:
            time = self._time(bar.get(found["timestamp"]))
            if asset is None:
                return Unread(None, time, "the bar names no asset; its run has several")
            values, absent = self._values(bar, found)
        except (ValueError, DataError) as error:
            return Unread(asset, None, str(error))
        return Bar(asset, time, values, absent)

    def read_alike(self, bars: Sequence[Any]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray] | None:
        """Read many bars that have the same keys and lack nothing, column by column: a tenth of the time.

        Args:
            bars: as for `read`.

        Returns:
            As of `read_table`; None if a bar is of another kind, which `read` has to look at.
        """
        keys = bars[0].keys() if type(bars[0]) is dict else ()
        if not keys or any(type(bar) is not dict or bar.keys() != keys for bar in bars):
            return None
        try:
            found = self._columns(bars[0])
            self.settle(found)
            when, names = found["timestamp"], [found[name] for name in self.columns]
            assets = [bar[found["asset"]] for bar in bars] if "asset" in found else [self.single or ""] * len(bars)
            if self.table.adjusted or not all(type(asset) is str and asset for asset in assets):
                return None
            values = np.array([[float(bar[name]) for bar in bars] for name in names], dtype=np.float64).T
            times = np.array([self._time(bar[when]) for bar in bars], dtype=np.int64)
        except (KeyError, TypeError, ValueError, DataError):
            return None
        if self.table.price_scale != 1.0:
            values[:, [name in PRICES for name in self.columns]] *= self.table.price_scale
        return assets, times, np.ascontiguousarray(values), np.zeros(values.shape, dtype=bool)

    def _columns(self, bar: Mapping[str, Any]) -> dict[str, str]:
        """Return canonical name -> key of a bar, of those that are read."""
        keys = tuple(bar)
        found = self._found.get(keys)
        if found is None:
            names = [str(key) for key in keys]
            found = self.table.find(names, "a bar")
            found.pop(LABEL, None)
            if "asset" not in found and (usual := [name for name in names if name.lower() in ASSETS]):
                found["asset"] = usual[0]
            if self.table.kind == "series":
                found |= {name: name for name in self.needed if name in names}
            if len(self._found) < 100:  # a feed has few kinds of bars
                self._found[keys] = found
        return found

    def _time(self, when: Any) -> int:
        if self._last is not None and self._last[0] == when and type(self._last[0]) is type(when):
            return self._last[1]
        moment = when
        if isinstance(when, str) and self.table.timestamp_format is None and "-" in when[:5]:
            try:
                moment = date.fromisoformat(when) if len(when) == 10 else datetime.fromisoformat(when)
            except ValueError:
                moment = when
        if moment is None or moment == "" or moment != moment:
            raise ValueError("the bar has no timestamp")
        if not isinstance(moment, date):
            reader = CellReader("a bar", None, self.table.cells)
            column = pl.Series("timestamp", [moment], strict=False)
            parsed = reader.timestamp(column, self.table.timestamp_format)
            reader.finish()
            moment = parsed[0]
            if moment is None:
                raise ValueError(f"timestamp is {when!r}; it is no time")
        time = self.clock.read(moment)
        self._last = when, time
        return time

    def _values(self, bar: Mapping[str, Any], found: Mapping[str, str]) -> tuple[list[float], list[bool]]:
        try:  # the usual case: all are there
            values, absent = [float(bar[found[name]]) for name in self.columns], [False] * len(self.columns)
        except (KeyError, TypeError, ValueError):
            values, absent = self._some_values(bar, found)
        scale = self.table.price_scale
        if scale != 1.0:
            values = [
                value * scale if name in PRICES else value for name, value in zip(self.columns, values, strict=True)
            ]
        return self._adjusted(bar, found, values) if self.table.adjusted else values, absent

    def _some_values(self, bar: Mapping[str, Any], found: Mapping[str, str]) -> tuple[list[float], list[bool]]:
        values, absent = [], []
        for name in self.columns:
            value = bar.get(found[name]) if name in found else None
            try:
                number = math.nan if value is None or value == "" else float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{found[name]} is {value!r}; it must be a number") from None
            values.append(number)
            absent.append(value is None or value == "")
        return values, absent

    def _adjusted(self, bar: Mapping[str, Any], found: Mapping[str, str], values: list[float]) -> list[float]:
        """Scale prices by adjusted close / close, and the volume by the inverse."""
        if "adjusted_close" not in found or "close" not in self.columns:
            raise ValueError("data.source.table.adjusted is true; the bar has no adjusted close beside a close")
        close = values[self.columns.index("close")]
        factor = float(bar[found["adjusted_close"]]) * self.table.price_scale / close if close else math.nan
        return [
            value / factor if name == "volume" else value * factor
            for name, value in zip(self.columns, values, strict=True)
        ]

    def read_table(self, bars: pl.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Read a canonical table.

        Args:
            bars: as the readers of tables return it; rows without a time or an asset are left out by the caller.

        Returns:
            (N,) assets, (N,) microseconds, (N, C) values, and (N, C) bool where one lacks.

        Raises:
            DataError: the times are of another kind than those before.
        """
        self.settle(bars.columns)
        try:
            times = self.clock.read_series(bars["timestamp"])
        except ValueError as error:
            raise DataError(str(error)) from None
        N = bars.height
        values, absent = np.full((N, len(self.columns)), np.nan), np.ones((N, len(self.columns)), dtype=bool)
        for number, name in enumerate(self.columns):
            if name in bars.columns:
                column = bars[name].cast(pl.Float64)
                absent[:, number] = column.is_null().to_numpy()
                values[:, number] = column.fill_null(math.nan).to_numpy()
        return bars["asset"].cast(pl.String).to_list(), times, values, absent
