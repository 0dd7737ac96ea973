"""`ganpipe render TARGET`: print exactly what would be sent to a cluster of infra/targets.yaml, or write it; nothing is sent."""

import sys

from pipeline import cli
from pipeline.render.command import main

if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))
