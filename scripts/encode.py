"""`python scripts/encode.py ...` is `refold encode ...`."""

import sys

from refold.cli.main import run_subcommand

if __name__ == "__main__":
    sys.exit(run_subcommand("encode"))
