"""Read bars from a CSV file, wide or long, plain or compressed."""

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import ROW, Table
from refold.data.sources.csv_form import UNUSUAL_SEPARATORS, CsvForm, find_form, find_separator
from refold.data.sources.files import ROWS, asset_of, canonical_batches, stamp
from refold.data.sources.source import RawTable
from refold.errors import DataError

BLOCK = 1 << 23
"""Bytes of a CSV file that are read at a time: some 80,000 rows."""

_HEAD = 1 << 16  # bytes that the form of the file is found from
_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_ZLIB = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_texts(path: Path, separator: str) -> pl.DataFrame:
    """Read all cells of a plain CSV as texts, so that a message can show a value that is not a number.

    Args:
        path: the file.
        separator: between cells, one byte.

    Returns:
        One column of texts for each column of the file.

    Raises:
        DataError: the file is missing, unreadable, empty, not UTF-8 or not a table.
    """
    with explained(path, separator):
        return pl.read_csv(path, separator=separator, infer_schema=False)


_NOT_UTF8 = "it is not UTF-8; say how it is written with data.source.encoding, such as latin-1 or cp1252"


def _encoding_hint(error: UnicodeDecodeError) -> str:
    if error.encoding.startswith("utf-16"):
        return f"it is not UTF-16, as its first bytes say: {error}"
    return _NOT_UTF8 if error.encoding == "utf-8" else f"it is not written in data.source.encoding: {error}"


@contextmanager
def explained(path: Path, separator: str | None) -> Iterator[None]:
    """Turn the errors of reading a file, within the block, into a DataError.

    Args:
        path: the file.
        separator: between cells; None if it was found.
    """
    if not path.is_file():
        raise DataError(f"data.path is {str(path)!r}; there is no such file{' (it is a folder)' * path.is_dir()}")
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"data.path is {str(path)!r}; the file is empty") from None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"data.path is {str(path)!r}; it cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"data.path is {str(path)!r}; {_encoding_hint(error)}") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        if "utf-8" in reason:
            raise DataError(f"data.path is {str(path)!r}; {_NOT_UTF8}") from None
        table = "a table" if separator is None else f"a table separated by {separator!r}"
        raise DataError(f"data.path is {str(path)!r}; it is not {table}: {reason}") from None


def blocks_of_lines(file: BinaryIO) -> Iterator[bytes]:
    """Cut the rest of a CSV file into blocks of whole lines, of about `BLOCK` bytes each.

    Args:
        file: open, at the beginning of a line.

    Yields:
        Lines; none ends inside a quoted cell.
    """
    while block := bytearray(file.read(BLOCK)):
        block += file.readline()
        quotes = block.count(b'"')
        while quotes % 2 and (line := file.readline()):  # in the middle of a quoted cell
            block += line
            quotes += line.count(b'"')
        yield bytes(block)


class Csv:
    """Read a CSV file: long (date, symbol, those of open to volume it has) or wide (date, closes of each asset).

    The first lines tell how the file is written, unless the settings do. Files in gzip, zlib, zstd and zip (of one
    file), and in UTF-8 or in UTF-16 with its mark, are read. Other encodings must be named; the file is then held in
    memory.

    Args:
        path: the file.
        separator: one byte, or "\\t" as it is typed; None finds it.
        table: how the table is read.
        decimal: mark before the fraction of a number, "." or ","; None finds it.
        thousands: mark between groups of three digits, one character; None finds it.
        encoding: Python's name of an encoding, such as latin-1; None reads UTF-8, and UTF-16 with its mark.

    Raises:
        ValueError: a setting is out of bounds, or two of the three marks are the same.
    """

    @checked("data.source")
    def __init__(
        self,
        *,
        path: str,
        separator: str | None,
        table: Table,
        decimal: Literal[".", ","] | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
    ) -> None:
        separator = "\t" if separator == "\\t" else separator
        for key, mark in (("separator", separator), ("thousands", thousands)):
            if mark is not None and (len(mark) != 1 or mark in '"\r\n'):
                wanted = "one character, such as ';' or '\\t'" if key == "separator" else "one character, such as ','"
                raise ValueError(f"data.source.{key} is {mark!r}; it must be {wanted}, or null to find it")
        if separator is not None and not separator.isascii():
            raise ValueError(f"data.source.separator is {separator!r}; it must be of one byte, such as ';'")
        if thousands is not None and thousands == decimal:
            raise ValueError(f"data.source.thousands is {thousands!r}; it must not be data.source.decimal")
        if encoding is not None and not _is_encoding(encoding):
            raise ValueError(
                f"data.source.encoding is {encoding!r}; it must be an encoding that Python knows, such as latin-1, "
                f"cp1252 or utf-16, or null for UTF-8"
            )
        self.path = Path(path).expanduser()
        self.separator = separator
        self.table = table
        self.decimal = decimal
        self.thousands = thousands
        self.encoding = encoding

    def load(self) -> pl.DataFrame:
        """Read the canonical table of the file.

        Raises:
            DataError: the file cannot be read, or its table does not fit.
        """
        return self.raw().canonical()

    def raw(self) -> RawTable:
        """Read all cells of the file, as texts.

        Raises:
            DataError: the file cannot be read.
        """
        with self._advised():
            content, form = self._open()
        with self._advised(), explained(self.path, form.separator):
            read = _read(content, form)
            texts = form.arrange(read.with_row_index(ROW).lazy()).collect()
        return RawTable(
            frame=texts,
            table=self.table.with_cells(form.cells),
            where=str(self.path),
            single_asset=asset_of(self.path),
            columns=tuple(name for name in (texts if form.tickers else read).columns if name != ROW),
            joined=form.day_and_time[1:] if form.day_and_time else (),
            form=form.described(),
            advised=self._advised,
        )

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the canonical table some rows at a time; the rows of an asset keep their order.

        Raises:
            DataError: the file cannot be read, or its table does not fit.
        """
        with self._advised():
            content, form = self._open()
        table = self.table.with_cells(form.cells)
        with self._advised(), explained(self.path, form.separator):
            yield from canonical_batches(
                _parts(content, form), table, self.load, where=str(self.path), single_asset=asset_of(self.path)
            )

    def identity(self) -> Any:
        """Return plain values that change when the file or the way it is read does."""
        return [stamp(self.path), self.separator, self.decimal, self.thousands, self.encoding, vars(self.table)]

    @contextmanager
    def _advised(self) -> Iterator[None]:
        """Add to a refusal, within the block, the separator that gives the file a column of dates, and what it shows.

        Else a reader would mend the separator, then the dates, then the numbers, one message at a time.
        """
        try:
            yield
        except DataError as error:
            if advice := self._advice():
                raise DataError(f"{error}; {advice}") from None
            raise

    def _advice(self) -> str:
        """Return what would come of another separator; an empty text if the chosen one is right or none is better."""
        try:
            lines = _first_lines(self._content())
            chosen = self.separator or find_separator(lines)
            better = find_separator(lines, UNUSUAL_SEPARATORS)
            if better == chosen or self._head(lines, chosen) is not None:
                return ""
            head = self._head(lines, better)
        except (
            DataError,
            OSError,
            EOFError,
            UnicodeDecodeError,
            zlib.error,
            zipfile.BadZipFile,
            pl.exceptions.PolarsError,
        ):
            return ""
        if head is None:
            return ""
        found = ", ".join(head.columns[:6])
        says = f"data.source.separator={better!r} gives it the columns {found}"
        try:
            head.canonical()
        except DataError as error:
            return f"{says}; then {error}"
        return says

    def _head(self, lines: list[str], separator: str) -> RawTable | None:
        """Return the first rows as a separator cuts them; None if there is no column of dates among them then."""
        chosen = {"separator": separator, "decimal": self.decimal, "thousands": self.thousands}
        form = find_form(lines, self.table, where=str(self.path), **chosen)
        try:
            rows = pl.read_csv(io.BytesIO("".join(lines).encode()), **_skipped(form), **_options(form))
            texts = form.arrange(rows.with_row_index(ROW).lazy()).collect()
            self.table.find([name for name in texts.columns if name != ROW], str(self.path))
        except (DataError, pl.exceptions.PolarsError):
            return None
        table, columns = self.table.with_cells(form.cells), tuple(name for name in texts.columns if name != ROW)
        return RawTable(texts, table, str(self.path), asset_of(self.path), columns)

    def _open(self) -> tuple[Path | bytes, CsvForm]:
        """Find how the file is written; return it with what polars reads."""
        with explained(self.path, self.separator):
            content = self._content()
            lines = _first_lines(content)
            if not lines:
                raise pl.exceptions.NoDataError
        form = find_form(
            lines,
            self.table,
            where=str(self.path),
            separator=self.separator,
            decimal=self.decimal,
            thousands=self.thousands,
        )
        return content, form

    def _content(self) -> Path | bytes:
        """Return the path of the file, or its content in UTF-8 if polars would not read the file as it is."""
        with self.path.open("rb") as file:
            start = file.read(len(_ZIP))
        content: Path | bytes = self.path
        if start == _ZIP:
            content = _unzip(self.path)
            start = content[:4]
        encoding = self.encoding or ("utf-16" if start.startswith(_UTF16) else None)
        return content if encoding is None else _unpacked(content).decode(encoding).encode()

    def __str__(self) -> str:
        return f"csv {self.path}"


def _unzip(path: Path) -> bytes:
    """Read the only file of a zip.

    Raises:
        DataError: it has none, or several.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise DataError(f"data.path is {str(path)!r}; it holds {len(names)} files; a zip must hold one CSV file")
        return archive.read(names[0])


def _is_encoding(name: str) -> bool:
    try:
        return isinstance("".encode(name), bytes)
    except LookupError:  # there is none of this name, or it encodes something else than texts
        return False


def _unpacked(content: Path | bytes) -> bytes:
    """Return the bytes of a file, unpacked.

    Raises:
        DataError: it is packed by zstd, which Python does not unpack.
    """
    data = content.read_bytes() if isinstance(content, Path) else content
    if data.startswith(_ZSTD):
        raise DataError("data.source.encoding must be null for a file packed by zstd; unpack it, or write it in UTF-8")
    if data.startswith(_GZIP):
        return gzip.decompress(data)
    return zlib.decompress(data) if data.startswith(_ZLIB) else data


def _first_lines(content: Path | bytes) -> list[str]:
    """Read the first complete lines of a file, unpacked, with their ends."""
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        head = file.read(_HEAD)
    complete = len(head) < _HEAD
    if head.startswith(_GZIP) and isinstance(content, Path):
        with gzip.open(content) as packed:
            head = packed.read(_HEAD)
        complete = len(head) < _HEAD
    elif head.startswith(_ZLIB):
        head = zlib.decompressobj().decompress(head, _HEAD)
        complete = complete and len(head) < _HEAD
    elif head.startswith(_ZSTD):
        rows = pl.scan_csv(content, separator="\x00", quote_char=None, has_header=False, infer_schema=False).head(500)
        return [f"{line}\n" for line in rows.collect().to_series().fill_null("")]
    text = codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    return lines if complete or len(lines) < 2 else lines[:-1]


def _options(form: CsvForm) -> dict[str, Any]:
    """Return the arguments of polars' readers: all cells are texts, the columns have the names of the form."""
    options: dict[str, Any] = {"separator": form.separator, "infer_schema": False}
    if form.names is not None:
        options |= {"has_header": False, "schema": dict.fromkeys(form.names, pl.String)}
    return options


def _skipped(form: CsvForm) -> dict[str, int]:
    return {"skip_rows": 0 if form.names is None else form.header_lines}


def _read(content: Path | bytes, form: CsvForm) -> pl.DataFrame:
    return pl.read_csv(content, **_skipped(form), **_options(form))


def _scan(content: Path | bytes, form: CsvForm) -> pl.LazyFrame:
    """Scan the file, with the number of each row in ROW."""
    return form.arrange(pl.scan_csv(content, row_index_name=ROW, **_skipped(form), **_options(form)))


def _parts(content: Path | bytes, form: CsvForm) -> Iterator[pl.LazyFrame]:
    """Read some rows at a time. polars' reader would hold the whole file; of a packed one it has to."""
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        packed = file.read(4).startswith((_GZIP, _ZSTD, *_ZLIB))
        if packed:
            yield from (rows.lazy() for rows in _scan(content, form).collect_batches(chunk_size=ROWS))
            return
        file.seek(0)
        lines = [file.readline() for _ in range(form.header_lines)]
        header = lines[0] if form.names is None else b""
        count = 0
        for block in blocks_of_lines(file):
            rows = pl.read_csv(header + block, **_options(form)).with_row_index(ROW, offset=count)
            count += rows.height
            yield form.arrange(rows.lazy())
