"""Memory of this process, and CPU time of those that it has started, as the kernel counts them."""

import os
import resource
from pathlib import Path

MIB = 1 << 20


def children_cpu() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def running_cpu(pid: int) -> float:
    """CPU seconds of the processes below one that run now, and of those that they have seen end."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    ticks = sum(
        sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15])) for child in children
    )
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(running_cpu, children))


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
