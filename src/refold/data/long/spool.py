"""Arrays and tables that grow block by block: in memory, or in a file if they may be larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

_ROWS = 1 << 20  # rows of an array that are read back at once
_GROUP = 50_000  # rows of a Parquet file that are read together


class Spool:
    """An array that grows along its first axis.

    Args:
        path: the .npy file to write the array to; None keeps it in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows = 0
        self._file: BinaryIO | None = None if path is None else path.open("wb+")
        self._blocks: list[np.ndarray] = []  # with a file only an empty one, for its dtype and shape

    def add(self, block: np.ndarray) -> None:
        """Append rows.

        Args:
            block: (n, ...), of one dtype and one shape after the first axis in all calls.
        """
        if self._file is None:
            self._blocks.append(block)
        else:
            if not self.rows:
                self._blocks = [block[:0]]
                self._write_header(self._file)
            np.ascontiguousarray(block).tofile(self._file)
        self.rows += len(block)

    def _write_header(self, file: BinaryIO) -> None:
        """Write the header of the file, and leave the file's position at the first row."""
        like = self._blocks[0]
        header = {"shape": (self.rows, *like.shape[1:]), "fortran_order": False, "descr": like.dtype.str}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header)  # NumPy pads it: it is as long for any number of rows

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows in blocks; those of a file are read anew, one block in memory at a time."""
        if self._file is None:
            yield from self._blocks
            return
        like = self._blocks[0]
        width = int(np.prod(like.shape[1:], dtype=np.int64))
        self._write_header(self._file)
        for start in range(0, self.rows, _ROWS):
            count = min(_ROWS, self.rows - start)
            yield np.fromfile(self._file, like.dtype, count * width).reshape(count, *like.shape[1:])

    def array(self) -> np.ndarray:
        """Return all rows, mapped into memory if they are in a file. Nothing can be added any more."""
        if self._file is None or self.path is None:
            return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        self._write_header(self._file)
        self._file.close()
        return np.load(self.path, mmap_mode="c")  # copy on write: torch warns of arrays that are read-only

    def discard(self) -> None:
        """Free the memory, or delete the file."""
        self._blocks = []
        if self._file is not None and self.path is not None:
            self._file.close()
            self.path.unlink()


class TableSpool:
    """A table that grows frame by frame.

    Args:
        path: the Parquet file to write the table to; each frame is written to a file beside it until `table` is called.
            None keeps the table in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows = 0
        self._frames: list[pl.DataFrame] = []
        self._files: list[Path] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows.

        Args:
            frame: the rows, with the same columns in all calls.
        """
        self.rows += frame.height
        if self.path is None:
            self._frames.append(frame)
            return
        # a Parquet file cannot be appended to: its end says what is in it
        self._files.append(self.path.with_name(f"{self.path.name}.{len(self._files):06}"))
        frame.write_parquet(self._files[-1], compression="lz4", row_group_size=_GROUP)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield what was added, one frame in memory at a time."""
        yield from self._frames
        yield from (pl.read_parquet(file) for file in self._files)

    def parts(self) -> pl.LazyFrame:
        """Return all rows, of at least one frame, from memory or from a file for each frame."""
        return pl.concat(self._frames).lazy() if self.path is None else pl.scan_parquet(self._files)

    def table(self) -> pl.LazyFrame:
        """Return all rows, of at least one frame, from memory or from the one file. Nothing can be added any more."""
        stored = store(self.parts(), self.path)
        for file in self._files:
            file.unlink()
        return stored


class PartedTable:
    """A table in a folder of Parquet files, which other processes may write: its rows are in the order of their names.

    Args:
        folder: to be made.
        parts: number of files that others write; frames that are added come after them.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.rows = 0
        self._next = parts

    def path(self, number: int) -> Path:
        """Return the path of the file with a number."""
        return self.folder / f"part-{number:06}.parquet"

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows in a file of their own."""
        frame.write_parquet(self.path(self._next), compression="lz4", row_group_size=_GROUP)
        self._next += 1
        self.rows += frame.height

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the rows file by file, one in memory at a time."""
        yield from (pl.read_parquet(file) for file in sorted(self.folder.iterdir()))

    def table(self) -> pl.LazyFrame:
        """Return all rows, of at least one file."""
        return pl.scan_parquet(sorted(self.folder.iterdir()))


def store(table: pl.LazyFrame, path: Path | None) -> pl.LazyFrame:
    """Compute a table once, without holding it in memory if there is a file for it.

    Args:
        table: may be longer than memory if `path` is given.
        path: the Parquet file to write it to; None keeps it in memory.

    Returns:
        The computed table.
    """
    if path is None:
        return table.collect().lazy()
    table.sink_parquet(path, row_group_size=_GROUP, compression="lz4")
    return pl.scan_parquet(path)
