"""`python -m vitwin` is the command `vitwin`."""

import sys

from vitwin.cli import main

if __name__ == "__main__":
    sys.exit(main())
