"""``python -m hamflow`` is the ``hamflow`` command."""

import sys

from hamflow.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
