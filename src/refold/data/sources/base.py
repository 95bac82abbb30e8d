"""The two interfaces of a source of bars, and one way to read both."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import polars as pl


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
