"""`python scripts/compare.py ...` is `refold compare ...`."""

import sys

from refold.cli.compare import command_line

if __name__ == "__main__":
    sys.exit(command_line())
