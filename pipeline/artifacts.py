"""What a finished training leaves for the stages after it: models/ and reports/training/."""

import csv
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ganlib.data.arrow import ArrowImages
from ganlib.files import atomic_folder, sha256_file, write_json
from ganlib.models import build
from ganlib.sampling import Prior
from ganlib.schedule import Schedule
from ganlib.storage import Storage
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import calibrate_generator
from ganlib.training.journal import GRIDS
from ganlib.training.loop import TrainingSpec, image_of
from ganlib.training.state import Bundle
from pipeline.report import curves
from pipeline.tracking.outbox import TrainingFacts

FORMAT = 1  # of models/generator.json; one of another format is never restored
GENERATOR = "generator"  # the averaged one is exported in its place
OUTS = ("models", "reports/training/grids", "reports/training/history.csv", "reports/training/curves.png")  # as dvc.yaml has them


def write(bundle: Bundle, spec: TrainingSpec, images: ArrowImages, *, storage: Storage, root: Path, facts: TrainingFacts) -> None:
    """Write the stage's outs from a finished bundle; no clock and no run id in them, so that they are the same however it was reached.

    models/ has every network of the bundle by its name, the generator as its moving average.

    Args:
        images: what it was trained on.
    """
    image = image_of(images)
    generator, discriminator = build(spec.model, image, seed=spec.train.seed)
    generator.load_state_dict({k.removeprefix("ema."): v for k, v in bundle.tensors.items() if k.startswith("ema.")})
    calibrate_generator(generator, Prior.of(spec.model, image), spec.train)
    description = {
        "format": FORMAT,
        "family": spec.model.name,
        "model": spec.model.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        **({"class_names": images.class_names} if spec.model.conditional else {}),
        "images_seen": bundle.numbers["images_seen"],
        "parameters": {"generator": count(generator), "discriminator": count(discriminator)},
        "weights": f"moving average, half-life {_half_life(spec.train)} images; batch-norm statistics measured after training",
        "rollbacks": [{key: record[key] for key in ("from_images", "to_images")} for record in bundle.numbers["rollbacks"]],
        "run_key": facts.run_key,
        **({"parent": dict(facts.parent)} if facts.parent is not None else {}),
        "git_commit": facts.tags["git.commit"],
        **({"git_changed": facts.tags["git.changed"].split(", ")} if "git.changed" in facts.tags else {}),
        "data_digest": facts.data_digest,
        "params_digest": facts.tags["params.digest"],
    }
    with atomic_folder(root / "models") as models:
        networks = bundle.networks() | {GENERATOR: {k: v.contiguous() for k, v in generator.state_dict().items()}}
        for name, tensors in networks.items():
            save_file(tensors, models / f"{name}.safetensors")
        description["sha256"] = sha256_file(models / "generator.safetensors")
        write_json(models / "generator.json", description)
    with atomic_folder(root / "reports" / "training") as reports:
        names = sorted({name for line in bundle.history for name in line["scalars"]})
        with (reports / "history.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", "images_seen", *names])
            writer.writerows(
                [line["step"], line["images_seen"], *(line["scalars"].get(name, "") for name in names)] for line in bundle.history
            )
        (reports / "grids").mkdir()
        for name in storage.names(GRIDS):
            if not name.startswith("."):  # half-written by a process that died
                (reports / "grids" / name).write_bytes(storage.read(f"{GRIDS}/{name}"))
        curves.draw(bundle.history, reports / "curves.png")


def _half_life(train: TrainConfig) -> str:
    chosen = train.ema_halflife_images
    return " to ".join(f"{number:,.0f}" for number in chosen.ends) if isinstance(chosen, Schedule) else f"{chosen:,}"


def count(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())
