"""`python scripts/compare.py ...` is `refold compare ...`."""

import sys

from refold.cli.main import run_subcommand

if __name__ == "__main__":
    sys.exit(run_subcommand("compare"))
