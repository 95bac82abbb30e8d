"""Freed arrays are kept within the block alone, and only where the C library is glibc."""

import ctypes
import subprocess
import sys

import pytest

from refold.launch import memory
from refold.launch.memory import keeping_freed_memory

CHECKS = """
import ctypes, contextlib
from refold.launch.memory import keeping_freed_memory

names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
Counts = type("Counts", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
library = ctypes.CDLL(None)
library.mallinfo2.restype, library.malloc.restype = Counts, ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

def is_mapped():
    before = library.mallinfo2().hblks
    array = library.malloc(2**26)
    mapped = library.mallinfo2().hblks - before
    library.free(array)
    return mapped

found = [is_mapped()]
with contextlib.suppress(ZeroDivisionError), keeping_freed_memory():
    found.append(is_mapped())
    1 / 0
print(*found, is_mapped())
"""
"""Counts arrays that are mapped one by one before, within and after the block, in a process with a heap of its own."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later")
def test_large_arrays_are_not_mapped_one_by_one_within_the_block_even_if_it_fails():
    done = subprocess.run([sys.executable, "-c", CHECKS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0", "1"]


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with keeping_freed_memory():
        pass
