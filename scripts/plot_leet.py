"""Picture of `wandb leet` with the curves of all runs in a folder, as a terminal shows it. Needs tmux.

make leet, then q, then: python scripts/plot_leet.py outputs/.leet docs/leet.svg
"""

import io
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 150, 40
SOCKET = "refold-plot-leet"


def screen(folder: Path) -> str:
    """Return the screen that leet shows for all runs in a folder, with escape sequences of colours."""
    runs = sum(1 for path in folder.iterdir() if path.is_dir())
    leet = f"TERM=xterm-256color COLORTERM=truecolor '{Path(sys.executable).with_name('wandb')}' leet '{folder}'"
    _tmux("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), leet)
    try:
        time.sleep(8)  # it reads the files in the background
        for _ in range(runs - 1):  # the first one is selected already
            _tmux("send-keys", "Down")
            time.sleep(1)
            _tmux("send-keys", "Space")
            time.sleep(3)
        return _tmux("capture-pane", "-e", "-p").rstrip().rpartition("\n")[0]  # the last line says where on this disk
    finally:
        _tmux("kill-server")


def _tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", "-L", SOCKET, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Args: the folder, the file to write."""
    folder, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen(folder)), crop=True, no_wrap=True)
    svg = console.export_svg(title="wandb leet")
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))  # they would be fetched from the net


if __name__ == "__main__":
    main()
