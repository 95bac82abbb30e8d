"""`python -m refold COMMAND ...` is `refold COMMAND ...`."""

import sys

from refold.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
