"""Let the C library keep the memory that a training step frees for the next one."""

import contextlib
import ctypes
from collections.abc import Iterator

KEPT_BYTES = 2**30
"""The most freed memory at the end of the heap that is kept."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let glibc keep freed arrays within a block, and give them back to the system after it.

    By default glibc maps each array above some 100 KiB anew and unmaps it when it is freed, so that with large batches
    a training step spends up to half of its time in page faults (docs/benchmarks.md). Other C libraries are left alone.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    library.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
