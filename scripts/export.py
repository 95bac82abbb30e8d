"""`python scripts/export.py ...` is `refold export ...`."""

import sys

from refold.cli.main import run

if __name__ == "__main__":
    sys.exit(run("export"))
