"""Bars from a CSV file, wide or long, plain or compressed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import ROW, Table
from refold.data.sources.files import ROWS, asset_of, canonical_batches, stamp
from refold.errors import DataError

BLOCK = 1 << 23
"""Bytes of a CSV file that are read at a time: some 80,000 rows."""

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")  # gzip, zstd, zlib


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


def blocks(path: Path) -> Iterator[bytes]:
    """A CSV file as smaller ones, each with its header."""
    with path.open("rb") as file:
        header = file.readline()
        while block := bytearray(file.read(BLOCK)):
            block += file.readline()
            quotes = block.count(b'"')
            while quotes % 2 and (line := file.readline()):  # in the middle of a quoted cell
                block += line
                quotes += line.count(b'"')
            yield header + block


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
        return self.table.canonical(texts, where=str(self.path), single_asset=asset_of(self.path))

    def batches(self) -> Iterator[pl.DataFrame]:
        """The canonical table some rows at a time, in its order. Raises: DataError."""
        with explained(self.path, self.separator):
            yield from canonical_batches(
                self._blocks(), self.table, self.load, where=str(self.path), single_asset=asset_of(self.path)
            )

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_csv(self.path, separator=self.separator, infer_schema=False, row_index_name=ROW)

    def _blocks(self) -> Iterator[pl.LazyFrame]:
        """All rows as texts, some at a time. polars' reader would hold the whole file; of a packed one it has to."""
        with self.path.open("rb") as file:
            packed = file.read(4).startswith(_PACKED)
        if packed:
            yield from (rows.lazy() for rows in self._scan().collect_batches(chunk_size=ROWS))
            return
        count = 0
        for block in blocks(self.path):
            rows = pl.read_csv(block, separator=self.separator, infer_schema=False).with_row_index(ROW, offset=count)
            count += rows.height
            yield rows.lazy()

    def identity(self) -> Any:
        """Changes when the file or the way it is read does."""
        return [stamp(self.path), self.separator, vars(self.table)]

    def __str__(self) -> str:
        return f"csv {self.path}"
