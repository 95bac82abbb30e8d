"""`python scripts/encode.py ...` is `refold encode ...`."""

import sys

from refold.cli.main import run

if __name__ == "__main__":
    sys.exit(run("encode"))
