"""`python train.py ...` is `refold train ...`; the story of a run stands in src/refold/cli/train.py."""

import sys

from refold.cli.main import run_subcommand

if __name__ == "__main__":
    sys.exit(run_subcommand("train"))
