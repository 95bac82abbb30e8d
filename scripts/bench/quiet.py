"""Train without a word, and in another folder."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet(folder: Path | None = None) -> Iterator[None]:
    """Keep what is printed to itself, and work in a folder meanwhile.

    Args:
        folder: an existing one, or None to stay.
    """
    home = Path.cwd()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder or home)
        try:
            yield
        finally:
            os.chdir(home)
