"""our_training.py FOLDER: the tiny training in one process, for the resume doctor; run again, it goes on."""

import sys
from pathlib import Path

from ganlib.training.loop import train
from tests.chaos.tiny_training import tiny_spec

if __name__ == "__main__":
    train(tiny_spec(Path(sys.argv[1]), total_images=5_120))
