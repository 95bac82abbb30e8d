"""Freed arrays are kept within the block alone, and only where the C library is glibc."""

import ctypes

import pytest
import torch

from refold.launch import memory
from refold.launch.memory import keeping_freed_memory

FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """Counts of mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def mapped_arrays() -> int:
    """Return how many arrays glibc has mapped one by one."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("needs glibc 2.33 or later")
    library.mallinfo2.restype = Mallinfo
    return library.mallinfo2().hblks


def maps_a_large_array() -> bool:
    before = mapped_arrays()
    array = torch.ones(2**24)
    return mapped_arrays() - before >= len(array) / 2**24


def test_large_arrays_are_not_mapped_one_by_one_within_the_block():
    assert maps_a_large_array()
    with keeping_freed_memory():
        assert not maps_a_large_array()
    assert maps_a_large_array()


def test_the_block_ends_where_training_fails():
    with pytest.raises(ZeroDivisionError), keeping_freed_memory():
        1 / 0  # noqa: B018
    assert maps_a_large_array()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with keeping_freed_memory():
        assert torch.ones(2**24).sum() == 2**24
