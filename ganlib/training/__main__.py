"""`python -m ganlib.training SPEC.json`, alone or under torchrun: a training without Ray, DVC or MLflow."""

import argparse
import logging
import warnings
from pathlib import Path

from ganlib import dist
from ganlib.training.loop import TrainingSpec, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, help="a TrainingSpec as JSON")
    spec = TrainingSpec.model_validate_json(parser.parse_args().spec.read_text())
    logging.basicConfig(format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # a [1, n] weight: harmless
    dist.open_from_environment()
    try:
        state = train(spec)
        if dist.is_main():
            print(f"{state.images_seen:,} images, step {state.step}")
    finally:
        dist.close()


if __name__ == "__main__":
    main()
