"""Read bars from a sheet of a spreadsheet: Excel's .xlsx, .xlsm, .xlsb and .xls, and OpenDocument's .ods."""

import re
import zipfile
from datetime import time
from html import unescape
from pathlib import Path
from posixpath import join, normpath
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.bars.cells import say
from refold.data.bars.table import ROW, Table
from refold.data.sources.files import asset_of, stamp
from refold.data.sources.source import RawTable
from refold.errors import DataError


class Excel:
    """Read a sheet whose first row holds the names of the columns.

    Args:
        path: the file.
        sheet: name of the sheet; None takes the only one that is not empty.
        table: how the table is read.

    Source of the reader: github.com/ToucanToco/fastexcel, which polars uses too.
    """

    @checked("data.source")
    def __init__(self, *, path: str, sheet: str | None, table: Table) -> None:
        self.path = Path(path).expanduser()
        self.sheet = sheet
        self.table = table

    def load(self) -> pl.DataFrame:
        """Read the canonical table of the sheet.

        Raises:
            DataError: the sheet cannot be read, or its table does not fit.
        """
        return self.raw().canonical()

    def raw(self) -> RawTable:
        """Read the cells of the sheet.

        Raises:
            DataError: fastexcel is missing, the file cannot be read, no sheet or several could be meant, or the sheet
                has merged cells or a column twice.
        """
        try:
            import fastexcel
        except ImportError:
            raise DataError('data=excel needs fastexcel; install it with: pip install "refold[excel]"') from None
        if not self.path.is_file():
            raise DataError(f"data.path is {str(self.path)!r}; there is no such file")
        try:
            reader = fastexcel.read_excel(self.path)
            sheet = self._chosen(reader)
            where = f"{self.path}, sheet {sheet!r}"
            _refuse_merged(self.path, sheet, where)
            names = self._names(reader, sheet, where)
            frame = reader.load_sheet(sheet, schema_sample_rows=None).to_polars()
        except fastexcel.FastExcelError as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"data.path is {str(self.path)!r}; it cannot be read as a spreadsheet: {reason}") from None
        frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
        frame = frame.drop(name for name in names if name.endswith(" without a name"))
        empty = pl.all_horizontal(pl.exclude(ROW).is_null())  # formatted cells below the table
        frame = frame.with_row_index(ROW).filter(~empty)
        return RawTable(
            frame=frame.with_columns(_without_midnights(column) for column in frame if column.dtype.is_temporal()),
            table=self.table,
            where=where,
            single_asset=asset_of(self.path),
            columns=tuple(names),
            form={"sheet": repr(sheet)},
        )

    def _chosen(self, reader: Any) -> str:
        """Return the name of the sheet to read."""
        sheets = reader.sheet_names
        if self.sheet is None:
            filled = sheets if len(sheets) < 2 else [name for name in sheets if reader.load_sheet(name).width]
            if len(filled) == 1:
                return filled[0]
            raise DataError(
                f"data.path is {str(self.path)!r}; it has {len(filled)} sheets with cells, {_listed(filled)}; name one "
                f"with data.source.sheet"
            )
        if self.sheet not in sheets:
            raise DataError(f"data.source.sheet is {self.sheet!r}; {self.path} has {_listed(sheets)}")
        return self.sheet

    @staticmethod
    def _names(reader: Any, sheet: str, where: str) -> list[str]:
        """Return the names in the first row; a column without one gets a name that says so."""
        first = reader.load_sheet(sheet, header_row=None, n_rows=1, dtypes="string").to_polars()
        if not first.height:
            raise DataError(f"{where} is empty")
        cells = ["" if cell is None else str(cell).strip() for cell in first.row(0)]
        if twice := sorted({name for name in cells if name and cells.count(name) > 1}):
            raise DataError(
                f"{where} has the column {twice[0]!r} {cells.count(twice[0])} times; rename all but one of them"
            )
        names = [name or f"column {number} without a name" for number, name in enumerate(cells, 1)]
        if unnamed := [name for name in names if name.endswith(" without a name")]:
            say(f"{where}: {', '.join(unnamed)} is not used")
        return names

    def identity(self) -> Any:
        """Return plain values that change when the file or the way it is read does."""
        return [stamp(self.path), self.sheet, vars(self.table)]

    def __str__(self) -> str:
        return f"excel {self.path}"


def _listed(sheets: list[str]) -> str:
    return ", ".join(map(repr, sheets)) or "none"


def _without_midnights(column: pl.Series) -> pl.Series:
    """Read dates whose times are all midnight as days: a spreadsheet has no other sign of a day."""
    if not isinstance(column.dtype, pl.Datetime):
        return column
    midnight = (column.dt.time() == time()).all()
    return column.dt.date() if midnight else column.cast(pl.Datetime("us"))


def _refuse_merged(path: Path, sheet: str, where: str) -> None:
    """Raise a DataError if cells of a sheet are merged: only the first of them would have a value.

    Args:
        path: path of the file; only .xlsx and .xlsm say which cells are merged.
        sheet: name of the sheet.
        where: what the sheet is, for the message.
    """
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return
    with zipfile.ZipFile(path) as archive:
        book = archive.read("xl/workbook.xml").decode()
        links = archive.read("xl/_rels/workbook.xml.rels").decode()
        tags = [tag for tag in re.findall(r"<(?:\w+:)?sheet\s[^>]*>", book) if _attribute(tag, "name") == sheet]
        number = _attribute(tags[0], r"\w+:id") if tags else None
        target = [tag for tag in re.findall(r"<Relationship\s[^>]*>", links) if _attribute(tag, "Id") == number]
        if not target:
            return
        part = normpath(join("/xl", _attribute(target[0], "Target") or ""))
        merged = re.findall(rb'<(?:\w+:)?mergeCell\s[^>]*ref="([^"]+)"', archive.read(part.lstrip("/")))
    if merged:
        more = f" and {len(merged) - 1} more" if len(merged) > 1 else ""
        raise DataError(f"{where} has merged cells, {merged[0].decode()}{more}; unmerge them and fill each cell")


def _attribute(tag: str, name: str) -> str | None:
    """Return an attribute of an XML tag, or None."""
    found = re.search(rf'\s{name}="([^"]*)"', tag)
    return found and unescape(found[1])
