"""Bars from a CSV file, wide or long, plain or compressed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.layout import ROW, Table
from refold.data.sources.files import stamp
from refold.data.sources.pieces import batches, pieces
from refold.errors import DataError


def read_texts(path: Path, separator: str) -> pl.DataFrame:
    """All cells of a CSV as texts, so that a value which is not a number can be shown where it stands.

    Raises: DataError: the file is missing, unreadable, empty, not UTF-8 or not a table.
    """
    with explained(path, separator):
        return pl.read_csv(path, separator=separator, infer_schema=False)


@contextmanager
def explained(path: Path, separator: str) -> Iterator[None]:
    """Turn what goes wrong when a file is read into a DataError."""
    if not path.is_file():
        raise DataError(f"data.path is {str(path)!r}; there is no such file{' (it is a folder)' * path.is_dir()}")
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"data.path is {str(path)!r}; the file is empty") from None
    except OSError as error:
        raise DataError(f"data.path is {str(path)!r}; it cannot be read: {error}") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.path is {str(path)!r}; it is not a table separated by {separator!r}: {reason}") from None


class Csv:
    """A CSV file: long (date, symbol, what there is of open to volume) or wide (date, a column of closes per asset).

    Args: path: the file; .gz and .zst are read as they are. separator: one character. table: how it is read.
    """

    @checked("data.source")
    def __init__(self, *, path: str, separator: str, table: Table) -> None:
        self.path = Path(path).expanduser()
        self.separator = separator
        self.table = table

    def load(self) -> pl.DataFrame:
        """The canonical table of the file. Raises: DataError."""
        texts = read_texts(self.path, self.separator)
        return self.table.canonical(texts, **self._names())

    def pieces(self) -> list[Callable[[], pl.DataFrame]]:
        """Loaders of some whole assets each, for a file that is larger than memory. Raises: DataError."""
        with explained(self.path, self.separator):
            found = pieces(self._scan, self.table, self.load, **self._names())
        return [partial(self._explained, load) for load in found]

    def batches(self) -> Iterator[pl.DataFrame]:
        """The canonical table some rows at a time, in its order. Raises: DataError."""
        with explained(self.path, self.separator):
            yield from batches(self._scan, self.table, self.load, **self._names())

    def _explained(self, load: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        with explained(self.path, self.separator):
            return load()

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_csv(self.path, separator=self.separator, infer_schema=False, row_index_name=ROW)

    def _names(self) -> dict[str, str]:
        return {"where": str(self.path), "single_asset": self.path.name.split(".")[0]}

    def identity(self) -> Any:
        """Changes when the file or the way it is read does."""
        return [stamp(self.path), self.separator, vars(self.table)]

    def __str__(self) -> str:
        return f"csv {self.path}"
