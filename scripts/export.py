"""`python scripts/export.py ...` is `refold export ...`."""

import sys

from refold.cli.export import command_line

if __name__ == "__main__":
    sys.exit(command_line())
