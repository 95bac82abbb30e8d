"""Bars from a CSV file, wide or long, plain or compressed."""

from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from refold.bounds import checked
from refold.data.layout import Shape, adjust, canonical, project
from refold.errors import DataError


def read_texts(path: Path, separator: str) -> pl.DataFrame:
    """All cells of a CSV as texts, so that a value which is not a number can be shown where it stands.

    Raises: DataError: the file is missing, unreadable, empty, not UTF-8 or not a table.
    """
    if not path.is_file():
        raise DataError(f"data.path is {str(path)!r}; there is no such file{' (it is a folder)' * path.is_dir()}")
    try:
        return pl.read_csv(path, separator=separator, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise DataError(f"data.path is {str(path)!r}; the file is empty") from None
    except OSError as error:
        raise DataError(f"data.path is {str(path)!r}; it cannot be read: {error}") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.path is {str(path)!r}; it is not a table separated by {separator!r}: {reason}") from None


class Csv:
    """A CSV file: long (date, symbol, what there is of open to volume) or wide (date, a column of closes per asset).

    Args: path: the file; .gz and .zst are read as they are. shape: auto looks at the header. columns: canonical name ->
        header, where the usual names do not do. timestamp_format: strptime codes; None expects ISO 8601. separator: one
        character. adjusted: scale prices by adjusted close / close.
    """

    @checked("data.source")
    def __init__(
        self,
        *,
        path: str,
        shape: Shape,
        columns: Mapping[str, str | None],
        timestamp_format: str | None,
        separator: str,
        adjusted: bool,
    ) -> None:
        self.path = Path(path).expanduser()
        self.shape = shape
        self.columns = dict(columns)
        self.timestamp_format = timestamp_format
        self.separator = separator
        self.adjusted = adjusted

    def load(self, columns: Collection[str] | None = None) -> pl.DataFrame:
        """The canonical table of the file. Args: columns: those wanted; None is all. Raises: DataError."""
        bars = canonical(
            read_texts(self.path, self.separator),
            columns=self.columns,
            shape=self.shape,
            timestamp_format=self.timestamp_format,
            single_asset=self.path.name.split(".")[0],
            where=str(self.path),
        )
        if self.adjusted:
            bars = adjust(bars, str(self.path))
        return project(bars, columns)

    def __str__(self) -> str:
        return f"csv {self.path}"
