"""`python -m advlib`: see `advlib.press.cli`."""

import sys

from .press.cli import main

if __name__ == "__main__":
    sys.exit(main())
