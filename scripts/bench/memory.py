"""Memory of this process, as the kernel counts it."""

import os
from pathlib import Path

MIB = 1 << 20


def resident() -> float:
    """MiB of the process now, mapped pages of files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def peak() -> float:
    """MiB that the process had at most. Not getrusage: a child's ru_maxrss counts its parent's memory before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def anonymous() -> float:
    """MiB that the process holds now for itself alone: without pages of files, which the kernel takes back at need."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024
