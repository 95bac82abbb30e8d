"""Read a table of any numbers from wherever it is: a CSV file, a spreadsheet, Parquet files, or a database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import Table
from refold.data.sources.csv import Csv
from refold.data.sources.excel import Excel
from refold.data.sources.parquet import Parquet
from refold.data.sources.source import RawTable, batches_of
from refold.data.sources.sql import Sql

SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
"""Ends of the names of spreadsheets."""


class AnyTable:
    """Read a table from the kind of file that the end of its name tells (Parquet, a spreadsheet, else CSV), or a query.

    Args:
        path: of the file or folder; None where `uri` is given.
        uri: of a database, such as sqlite:///plant.db; None where `path` is given.
        query: rows to read from the database.
        separator: of a CSV file, one character; None finds it.
        decimal: of a CSV file, mark before the fraction, "." or ","; None finds it.
        thousands: of a CSV file, mark between groups of three digits; None finds it.
        encoding: of a CSV file, such as latin-1; None reads UTF-8, and UTF-16 with its mark.
        sheet: of a spreadsheet; None takes the only one that is not empty.
        table: how the table is read.

    Raises:
        ValueError: neither a path nor a uri is given, or both are; or a setting is out of bounds.
    """

    @checked("data.source")
    def __init__(
        self,
        *,
        path: str | None,
        uri: str | None,
        query: str,
        separator: str | None,
        decimal: Literal[".", ","] | None,
        thousands: str | None,
        encoding: str | None,
        sheet: str | None,
        table: Table,
    ) -> None:
        if (path is None) == (uri is None):
            both = "both are given" if path is not None else "neither has a value"
            raise ValueError(f"data.path or data.uri must say where the table is; {both}")
        self.source: Csv | Excel | Parquet | Sql
        if uri is not None:
            self.source = Sql(uri=uri, query=query, table=table)
        elif is_parquet(str(path)):
            self.source = Parquet(path=str(path), table=table)
        elif str(path).lower().endswith(SHEETS):
            self.source = Excel(path=str(path), sheet=sheet, table=table)
        else:
            self.source = Csv(
                path=str(path),
                separator=separator,
                table=table,
                decimal=decimal,
                thousands=thousands,
                encoding=encoding,
            )

    @property
    def table(self) -> Table:
        """Return the settings with which the table is read."""
        return self.source.table

    @table.setter
    def table(self, table: Table) -> None:
        self.source.table = table

    def load(self) -> pl.DataFrame:
        """Read the canonical table.

        Raises:
            DataError: the table cannot be read, or does not fit.
        """
        return self.source.load()

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the canonical table some rows at a time, in its order; that of a query at once.

        Raises:
            DataError: the table cannot be read, or does not fit.
        """
        yield from batches_of(self.source)

    def raw(self) -> RawTable:
        """Read the table as its owner wrote it.

        Raises:
            DataError: the table cannot be read.
        """
        return self.source.raw()

    def identity(self) -> Any:
        """Return plain values that change when the table or the way it is read does; None for a query."""
        return self.source.identity()

    def __str__(self) -> str:
        return str(self.source)


def is_parquet(path: str) -> bool:
    """Test whether a path is read as Parquet: a folder, or a name or a pattern that ends in .parquet or .pq.

    Args:
        path: a file, a folder, or a pattern of files.
    """
    return path.endswith((".parquet", ".pq")) or Path(path).expanduser().is_dir()
