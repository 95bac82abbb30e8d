"""`python scripts/check.py ...` is `refold check ...`."""

import sys

from refold.cli.main import run_subcommand

if __name__ == "__main__":
    sys.exit(run_subcommand("check"))
