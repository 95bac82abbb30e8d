"""Which addresses a process listens on, as Linux tells it; no library, so that a worker may import it alone."""

import os


def listening(pid: int) -> list[str]:
    """Return the addresses, in hexadecimal as /proc writes them, of the TCP sockets on which a process listens."""
    inodes = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:  # closed meanwhile
            continue
        inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = []
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{name}") as file:
            rows = [line.split() for line in file][1:]
        found += [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]  # 0A: LISTEN
    return found
