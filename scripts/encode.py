"""`python scripts/encode.py ...` is `refold encode ...`."""

import sys

from refold.cli.encode import command_line

if __name__ == "__main__":
    sys.exit(command_line())
