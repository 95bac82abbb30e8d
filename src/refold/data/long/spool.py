"""Arrays and tables that grow block by block: in memory, or in a file for what is larger than that."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

_ROWS = 1 << 20  # read back at once
_GROUP = 50_000  # rows of a Parquet file that are read together


class Spool:
    """An array that grows along its first axis.

    Args: path: of the .npy file to write it to; None holds it in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows = 0
        self._blocks: list[np.ndarray] = []  # in memory all of them, with a file an empty one for dtype and shape
        self._file = None

    def add(self, block: np.ndarray) -> None:
        """Append (n, ...) rows."""
        self.rows += len(block)
        if self.path is None:
            self._blocks.append(block)
            return
        if self._file is None:
            self._blocks = [block[:0]]
            self._file = self.path.open("wb+")
            self._write_header()
        np.ascontiguousarray(block).tofile(self._file)

    def _write_header(self) -> None:
        like = self._blocks[0]
        header = {"shape": (self.rows, *like.shape[1:]), "fortran_order": False, "descr": like.dtype.str}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)  # padded: as long for any number of rows

    def __iter__(self) -> Iterator[np.ndarray]:
        """What was added, in blocks; from a file read anew, so that no more than a block of it is in memory."""
        if self.path is None:
            yield from self._blocks
            return
        like = self._blocks[0]
        width = int(np.prod(like.shape[1:], dtype=np.int64))
        self._write_header()
        for start in range(0, self.rows, _ROWS):
            count = min(_ROWS, self.rows - start)
            yield np.fromfile(self._file, like.dtype, count * width).reshape(count, *like.shape[1:])

    def array(self) -> np.ndarray:
        """The whole, mapped into memory if it is in a file. Nothing can be added any more."""
        if self.path is None:
            return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        self._write_header()
        self._file.close()
        return np.load(self.path, mmap_mode="c")  # copy on write: torch warns of arrays that are read-only

    def discard(self) -> None:
        """Let go of everything."""
        self._blocks = []
        if self._file is not None:
            self._file.close()
            self.path.unlink()


class TableSpool:
    """A table that grows frame by frame.

    Args: path: of the Parquet file to write it to; None holds it in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows = 0
        self._frames: list[pl.DataFrame] = []
        self._files: list[Path] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows. All frames have the same columns."""
        self.rows += frame.height
        if self.path is None:
            self._frames.append(frame)
            return
        # a Parquet file cannot be appended to: its end says what is in it
        self._files.append(self.path.with_name(f"{self.path.name}.{len(self._files):06}"))
        frame.write_parquet(self._files[-1])

    def table(self) -> pl.LazyFrame:
        """The whole; at least one frame was added, and nothing can be any more."""
        if self.path is None:
            return pl.concat(self._frames).lazy()
        pl.scan_parquet(self._files).sink_parquet(self.path, row_group_size=_GROUP)
        for file in self._files:
            file.unlink()
        return pl.scan_parquet(self.path)
