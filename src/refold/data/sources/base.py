"""The two interfaces of a source of bars."""

from collections.abc import Callable, Iterator, Sequence
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
    """Give the bars of a source some assets, or some rows, at a time."""

    def pieces(self) -> Sequence[Callable[[], pl.DataFrame]]:
        """Return functions that read a few assets each; together they read what `Source.load` reads."""
        ...

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the table of `Source.load` some rows at a time, in its order."""
        ...
