"""Read bars from any database that ConnectorX reads: SQLite, PostgreSQL, MySQL, SQL Server, BigQuery, Redshift, ..."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import Table
from refold.data.sources.source import RawTable
from refold.errors import DataError
from refold.secrets import mask, redact, remember


class Sql:
    """Read the rows of a query. Source of the connector: github.com/sfu-db/connector-x.

    Args:
        uri: such as sqlite:///prices.db or postgresql://user:password@host/name; never shown with its password.
        query: such as `select date, symbol, close from bars`.
        table: how the result is read.
    """

    @checked("data.source")
    def __init__(self, *, uri: str, query: str, table: Table) -> None:
        self.uri = uri
        self.query = query
        self.table = table

    def load(self) -> pl.DataFrame:
        """Read the canonical table.

        Raises:
            DataError: the connector is missing, the database refuses, or the result does not fit.
        """
        return self.raw().canonical()

    def raw(self) -> RawTable:
        """Read the result of the query.

        Raises:
            DataError: the connector is missing, or the database refuses.
        """
        self._refuse_missing_file()
        try:
            result = pl.read_database_uri(self.query, self.uri, engine="connectorx")
        except ImportError:
            raise DataError('data=sql needs connectorx; install it with: pip install "refold[sql]"') from None
        except Exception as error:  # connectorx raises bare RuntimeErrors, and panics that are BaseExceptions elsewhere
            remember(self.uri)  # drivers quote a password without its address
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"data.uri is {self._shown()!r}; the query failed: {redact(reason)}") from None
        return RawTable(result, self.table, str(self), "asset", tuple(result.columns))

    def _refuse_missing_file(self) -> None:
        """Refuse an SQLite database that is not there: SQLite would make an empty one under that name."""
        path = unquote(self.uri.removeprefix("sqlite://"))
        if path != self.uri and not Path(path).is_file():
            raise DataError(
                f"data.uri is {self._shown()!r}; there is no file {mask(path)}: sqlite:// and the path of a database, "
                "with nothing after it"
            )

    def identity(self) -> Any:
        """Return None: a database may change without a sign."""
        return None

    def _shown(self) -> str:
        return mask(self.uri)

    def __str__(self) -> str:
        return f"sql {self._shown()}"
