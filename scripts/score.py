"""`python scripts/score.py ...` is `refold score ...`."""

import sys

from refold.cli.main import run

if __name__ == "__main__":
    sys.exit(run("score"))
