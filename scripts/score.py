"""`python scripts/score.py ...` is `refold score ...`."""

import sys

from refold.cli.score import command_line

if __name__ == "__main__":
    sys.exit(command_line())
