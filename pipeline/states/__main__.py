"""`python -m pipeline.states`."""

from pipeline import cli
from pipeline.states.command import main

if __name__ == "__main__":
    cli.run(main)
