"""`python scripts/compare.py ...` is `refold compare ...`."""

import sys

from refold.cli.main import run

if __name__ == "__main__":
    sys.exit(run("compare"))
