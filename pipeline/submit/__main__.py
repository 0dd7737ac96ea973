"""`python -m pipeline.submit`."""

import sys

from pipeline import cli
from pipeline.submit.command import main

if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))
