"""1,000 training images, with and without augmentation of what the discriminator sees: a table in docs/ZOO.md.

    python benchmarks/little_data.py --seconds 120

FID against the whole test split; everything else, resuming included, as in benchmarks/zoo.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import zoo  # noqa: E402

BASES = (zoo.DEFAULT, "stylegan2")
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "diffaugment": {"diffaugment": {}},
    "ada": {"ada": {"speed_images": 50_000}},
}


def jobs(recipes: Sequence[str], seeds: list[int], seconds: float, train_images: int) -> list[zoo.Job]:
    return [
        zoo.Job(
            name=f"{base}, {name}, {train_images} images",
            seed=seed,
            seconds=seconds,
            changes=[*zoo.changes_of(base), {"task": {"augment": augment}}],
            train_images=train_images,
        )
        for seed in seeds
        for base in recipes
        for name, augment in AUGMENTATIONS.items()
    ]


def main() -> None:
    from ganlib.files import write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=BASES, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train-images", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, one core each")
    parser.add_argument("--work", type=Path, default=ROOT / ".zoo", help="scratch folder: states and results")
    args = parser.parse_args()
    rows = zoo.run_jobs(jobs(args.recipes, args.seeds, args.seconds, args.train_images), work=args.work.resolve(), parallel=args.parallel)
    chosen = f"--recipes {' '.join(args.recipes)} --seconds {args.seconds:g} --seeds {' '.join(map(str, args.seeds))}"
    command = f"python benchmarks/little_data.py {chosen}"
    zoo.PICTURES.mkdir(parents=True, exist_ok=True)
    write_json(zoo.PICTURES / "little_data.json", rows)
    zoo.write_page({"little_data": zoo.told(rows, command) + "\n\n" + zoo.table(rows, link=str)})
    print(zoo.table(rows))


if __name__ == "__main__":
    main()
