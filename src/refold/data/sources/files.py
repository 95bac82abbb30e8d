"""What tells two versions of a file apart."""

from pathlib import Path


def stamp(path: Path) -> list:
    """Absolute path, size in bytes and time of change in nanoseconds; the path alone if there is no such file."""
    if not path.is_file():
        return [str(path.absolute())]
    state = path.stat()
    return [str(path.absolute()), state.st_size, state.st_mtime_ns]
