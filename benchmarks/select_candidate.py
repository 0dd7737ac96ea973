"""What choosing a candidate by the validation images is worth: against the last one, and against the best one in hindsight.

    python benchmarks/select_candidate.py --seconds 60 --recipes default wgan stylegan2 [--candidates 10] [--patience 3] [--seeds 0]

Each recipe is trained on one core for so many CPU seconds (`benchmarks/zoo.py` says how), with candidates at equal distances. All of them are
scored on the validation images, as the train stage does, and measured on the test images (FID of the main extractor), which choose nothing.
Prints one JSON object a recipe and seed, then the means:

- `regret`: FID of the chosen one minus that of the best; `regret_of_last` the same for the last.
- `saved`: share of the images that `train.stop` with a patience of so many candidates would have saved; `regret_when_stopped` what it costs.
- `cost`: CPU seconds of scoring all candidates over those of the training; `cost_as_set` where they are as far apart as in params.yaml.

Needs `dvc repro reference`.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there

from benchmarks.zoo import DEFAULT, Job, changes_of, images_per_second, recipe_names, settings  # noqa: E402
from ganlib import sampling, tasks  # noqa: E402
from ganlib.data.arrow import ArrowImages, read_manifest  # noqa: E402
from ganlib.metrics import interface, needs  # noqa: E402
from ganlib.metrics.fid import fid, frechet_distance, moments  # noqa: E402
from ganlib.metrics.reference_store import Reference  # noqa: E402
from ganlib.models import build_network  # noqa: E402
from ganlib.selection import Judge, choose, verdicts  # noqa: E402
from ganlib.storage import open_storage  # noqa: E402
from ganlib.train_settings import SelectConfig  # noqa: E402
from ganlib.training import candidates, loop  # noqa: E402
from ganlib.training.hooks import calibrate_generator  # noqa: E402
from ganlib.training.parent import read_weights  # noqa: E402

TEST_IMAGES = 5_000  # generated, for the FID of each candidate


def run(name: str, seed: int, *, seconds: float, count: int, patience: int, folder: Path) -> dict[str, Any]:
    config = settings(Job(name=name, seed=seed, seconds=seconds, changes=changes_of(name)))
    never = 1 << 60
    quiet = {"seed": seed, "grid_interval_images": never, "checkpoint_interval_images": never, "select": None, "stop": None}
    prepared = ROOT / "data" / "prepared"
    spec = loop.TrainingSpec(
        data=str(prepared / "train.arrow"),
        held_out=str(prepared / "val.arrow"),
        folder=str(folder),
        model=config.model,
        task=config.task,
        optim=config.optim,
        train=config.train.model_copy(update=quiet),
        threads=1,
    )
    speed = images_per_second(spec)
    total = max(spec.train.batch_images * count, int(speed * seconds))
    select = SelectConfig(interval_images=total // count)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"total_images": total, "select": select})})
    start = time.process_time()
    loop.train(spec)
    trained = time.process_time() - start

    storage, image = open_storage(spec.folder), loop.image_of(ArrowImages(Path(spec.data)))
    reference = Reference.read(ROOT / "data" / "reference", data_digest=read_manifest(prepared).data_digest)
    judge = Judge.of(reference, prepared, model=spec.model, image=image, train=spec.train, task=spec.task)
    weights = {images_seen: read_weights(storage, candidates.name(images_seen)) for images_seen in candidates.present(storage)}
    start = time.process_time()
    scores = [judge.score(found, images_seen=seen, candidate=candidates.sha256(storage, seen)) for seen, found in weights.items()]
    scored = time.process_time() - start

    depth = needs.of(fid).depth
    real, task = moments(reference.features("test", depth)), tasks.of(spec.task)
    product = task.products(spec.model, spec.task, image)[0]
    role, prefix = task.networks(spec.task)[product.network], f"{product.network}."
    inputs = product.source(ArrowImages(prepared / "test.arrow")).seeded(1, range(TEST_IMAGES))
    fids = {}
    for images_seen, found in weights.items():
        averaged = build_network(spec.model, image, product.network, role=role, seed=seed, fed=product.fed(image))
        averaged.load_state_dict({key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix)})
        network = product.of(averaged)
        calibrate_generator(network, product.source(ArrowImages(Path(spec.data))), spec.train)
        images = sampling.generate(network, inputs, batch_images=250)
        features = interface.extract(reference.extractor, interface.ArrayImages(images))
        fids[images_seen] = frechet_distance(real, moments(features[interface.depth_of(reference.extractor, depth)]))
    chosen, best = choose(scores), min(fids.values())
    is_end = verdicts(scores, patience_images=patience * select.interval_images)
    seen_by_stop = scores[: is_end.index(True) + 1] if True in is_end else scores
    return {
        "recipe": name,
        "seed": seed,
        "images": total,
        "fid": {str(seen): round(value, 3) for seen, value in fids.items()},
        "chosen": chosen.images_seen,
        "regret": fids[chosen.images_seen] - best,
        "regret_of_last": fids[max(fids)] - best,
        "saved": 1 - seen_by_stop[-1].images_seen / max(fids),
        "regret_when_stopped": fids[choose(seen_by_stop).images_seen] - best,
        "cost": scored / trained,
        "cost_as_set": scored / len(scores) * speed / config.train.select.interval_images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each training")
    parser.add_argument("--recipes", nargs="+", default=[DEFAULT], help=f"of {', '.join(recipe_names())}; or all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--patience", type=int, default=3, help="of train.stop, in candidates")
    arguments = parser.parse_args()
    rows = []
    for name in recipe_names() if arguments.recipes == ["all"] else arguments.recipes:
        for seed in arguments.seeds:
            folder = Path(tempfile.mkdtemp(prefix="select-"))
            try:
                row = run(name, seed, seconds=arguments.seconds, count=arguments.candidates, patience=arguments.patience, folder=folder)
            finally:
                shutil.rmtree(folder)
            rows.append(row)
            print(json.dumps(row), flush=True)
    keys = ("regret", "regret_of_last", "saved", "regret_when_stopped", "cost", "cost_as_set")
    print(json.dumps({key: round(statistics.fmean(row[key] for row in rows), 4) for key in keys}))


if __name__ == "__main__":
    main()
