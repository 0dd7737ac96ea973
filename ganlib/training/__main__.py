"""`python -m ganlib.training SPEC.json ...`, alone or under torchrun: trainings, one after another, without Ray, DVC or MLflow."""

import argparse
import logging
import warnings
from pathlib import Path

from ganlib import dist
from ganlib.training.loop import TrainingSpec, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", type=Path, nargs="+", metavar="SPEC.json", help="a TrainingSpec as JSON")
    specs = [TrainingSpec.model_validate_json(path.read_text()) for path in parser.parse_args().specs]
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # a [1, n] weight: harmless
    dist.open_from_environment()
    try:
        for spec in specs:
            state = train(spec)
            if dist.is_main():
                print(f"{state.images_seen:,} images, step {state.step}")
    finally:
        dist.close()


if __name__ == "__main__":
    main()
