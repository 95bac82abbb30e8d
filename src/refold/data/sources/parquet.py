"""Read bars from Parquet: one file, a pattern of files, or a partitioned folder. Only what is needed is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import ROW, Table
from refold.data.sources.files import asset_of, canonical_batches, slices, stamp
from refold.data.sources.source import RawTable
from refold.errors import DataError


class Parquet:
    """Read Parquet files. Columns, assets and dates that the table does not keep are not read.

    Args:
        path: a file, a pattern such as `bars/*.parquet`, or a folder; folder names such as `symbol=AAPL` are columns.
        table: how the table is read.
    """

    @checked("data.source")
    def __init__(self, *, path: str, table: Table) -> None:
        self.path = Path(path).expanduser()
        self.table = table

    def files(self) -> list[Path]:
        """List the files, sorted.

        Raises:
            DataError: there are none.
        """
        found = self.path.rglob("*.parquet") if self.path.is_dir() else map(Path, glob(str(self.path), recursive=True))
        files = sorted(path for path in found if path.is_file())
        if not files:
            what = "the folder holds no .parquet file" if self.path.is_dir() else "there is no such file"
            raise DataError(f"data.path is {str(self.path)!r}; {what}")
        return files

    def load(self) -> pl.DataFrame:
        """Read the canonical table.

        Raises:
            DataError: the files cannot be read, or their table does not fit.
        """
        return self.raw().canonical()

    def raw(self) -> RawTable:
        """Read the columns and rows of the files that the table keeps.

        Raises:
            DataError: the files cannot be read, or a column is missing.
        """
        with self._explained():
            scan = self._scan()
            columns = tuple(name for name in scan.collect_schema().names() if name != ROW)
            frame = self.table.push_down(scan, str(self.path)).collect(engine="streaming")
        return RawTable(frame, self.table, str(self.path), asset_of(self.path), columns)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the canonical table some rows at a time, in its order.

        Raises:
            DataError: the files cannot be read, or their table does not fit.
        """
        with self._explained():
            parts = slices(self._scan, self.table, str(self.path))
            yield from canonical_batches(
                parts, self.table, self.load, where=str(self.path), single_asset=asset_of(self.path)
            )

    def _scan(self) -> pl.LazyFrame:
        # sorted files and folders as columns: the order of rows does not depend on the file system
        return pl.scan_parquet(self.files(), hive_partitioning=self.path.is_dir(), row_index_name=ROW)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of reading files, within the block, into a DataError."""
        try:
            yield
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"data.path is {str(self.path)!r}; it cannot be read as Parquet: {reason}") from None

    def identity(self) -> Any:
        """Return plain values that change when a file or the way it is read does."""
        return [[stamp(path) for path in self.files()], vars(self.table)]

    def __str__(self) -> str:
        return f"parquet {self.path}"
