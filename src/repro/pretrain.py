"""Command `python -m repro.pretrain`: makes a micro model again, bit for bit."""

import sys

from repro.training.pretraining.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
