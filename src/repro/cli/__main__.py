"""Runs the `repro` command: `python -m repro.cli` does the same as `repro`."""

import sys

from repro.cli import main

if __name__ == "__main__":
    sys.exit(main())
