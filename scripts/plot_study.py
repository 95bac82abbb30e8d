"""Draw and tabulate the result of `experiment=decoder_study`: python scripts/plot_study.py SWEEP PAGE FIGURE."""

import sys

from refold.cli import command
from refold.studies import decoder_study

if __name__ == "__main__":
    sys.exit(command.run_command(lambda: decoder_study.main(sys.argv[1:]), command.CONF))
