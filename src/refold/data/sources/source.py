"""The two interfaces of a source of bars, and one way to read both."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import polars as pl

from refold.data.bars.table import Table


class Source(Protocol):
    """Give all bars of a file, a database or a simulation; `str(source)` describes where they come from."""

    def load(self) -> pl.DataFrame:
        """Read the canonical table; see `refold.data.bars.table`."""
        ...

    def identity(self) -> Any:
        """Return plain values that change when the data may have changed.

        Returns:
            None if the source cannot know that without reading all of the data.
        """
        ...


@dataclass(frozen=True)
class RawTable:
    """Hold a user's table before its columns are read.

    Args:
        frame: its columns, as texts or numbers; a column `refold.data.bars.table.ROW` may number its rows.
        table: the settings by which the table is read.
        where: what it is, for messages.
        single_asset: name of the asset of a long table without an asset column.
        columns: names of all columns that it has, those that are not in `frame` too.
        joined: those of them that are read as a part of the time, such as a column of times of the day.
        form: what was found of how it is written, in words, such as "separator" -> "';'".
        advised: context that adds advice to a refusal of the table.
    """

    frame: pl.DataFrame
    table: Table
    where: str
    single_asset: str
    columns: tuple[str, ...]
    joined: tuple[str, ...] = ()
    form: dict[str, str] = field(default_factory=dict)
    advised: Callable[[], AbstractContextManager[None]] = nullcontext

    def canonical(self) -> pl.DataFrame:
        """Read the canonical table.

        Raises:
            DataError: the table does not fit.
        """
        with self.advised():
            return self.table.canonical(self.frame, where=self.where, single_asset=self.single_asset)


@runtime_checkable
class Tabular(Protocol):
    """Give the table of a source as its owner wrote it."""

    def raw(self) -> RawTable:
        """Read the table; its columns keep their names and values."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """Give the bars of a source some rows at a time."""

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of `Source.load` some at a time; those of one asset keep their order."""
        ...


def batches_of(source: Source) -> Iterable[pl.DataFrame]:
    """Read the canonical table of a source, some rows at a time if the source can be read so.

    Args:
        source: the table, which is loaded at once unless the source is `Divisible`.

    Returns:
        Canonical bars. Those of one asset come in the order in which the table has them.

    Raises:
        DataError: the table cannot be read.
    """
    return source.batches() if isinstance(source, Divisible) else [source.load()]
