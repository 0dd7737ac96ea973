"""our_training.py FOLDER: the tiny training, for the resume doctor, in one process or those of torchrun; run again, it goes on."""

import sys
from pathlib import Path

from ganlib import dist
from ganlib.training.loop import train
from tests.chaos.tiny_training import tiny_spec

if __name__ == "__main__":
    dist.open_from_environment()
    train(tiny_spec(Path(sys.argv[1]), total_images=5_120))
    dist.close()
