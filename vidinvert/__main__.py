"""`python -m vidinvert` is `vidinvert`."""

import sys

from vidinvert.cli import main

if __name__ == "__main__":
    sys.exit(main())
