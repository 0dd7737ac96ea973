"""`ganpipe doctor`."""

from pipeline import cli
from pipeline.doctor.command import main

if __name__ == "__main__":
    cli.run(main)
