"""What a finished training leaves for the stages after it: models/ and reports/training/."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ganlib import modalities, tasks
from ganlib.data.arrow import ArrowImages, read_manifest
from ganlib.fields import IMAGE
from ganlib.files import atomic_folder, sha256_file, write_json
from ganlib.models import ImageSpec, build_network
from ganlib.products import Column, Product
from ganlib.sampling import Prior
from ganlib.schedule import Schedule
from ganlib.storage import Storage
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import calibrate_generator
from ganlib.training.journal import GRIDS
from ganlib.training.loop import TrainingSpec, image_of
from ganlib.training.state import Bundle, health_of
from pipeline.report import curves
from pipeline.selection import Choice
from pipeline.tracking.outbox import TrainingFacts

FORMAT = 3  # of models/generator.json; one of another format is never restored
OUTS = (  # as dvc.yaml has them
    "models",
    *(
        f"reports/training/{name}"
        for name in ("grids", "history.csv", "curves.png", "health.csv", "health.png", "alarms.json", "selection.json")
    ),
)


def write(
    bundle: Bundle, choice: Choice, spec: TrainingSpec, images: ArrowImages, *, storage: Storage, root: Path, facts: TrainingFacts
) -> None:
    """Write the stage's outs from a finished bundle; no clock and no run id in them, so that they are the same however it was reached.

    models/ has every network of the choice by its name, the one that makes the products as its moving average.

    Args:
        images: what it was trained on.
    """
    image = image_of(images)
    task = tasks.of(spec.task)
    roles, delivered = task.networks(spec.task), task.products(spec.model, spec.task, image)
    averaged = delivered[0].network
    trained = build_network(spec.model, image, averaged, role=roles[averaged], seed=spec.train.seed, fed=delivered[0].fed(image))
    networks: dict[str, dict[str, Tensor]] = {}
    for key, value in choice.weights.items():
        name, _, rest = key.partition(".")
        networks.setdefault(name, {})[rest] = value
    trained.load_state_dict(networks[averaged])
    for product in delivered:
        calibrate_generator(product.of(trained), product.source(images), spec.train)
    description = {
        "format": FORMAT,
        "family": spec.model.name,
        "model": spec.model.model_dump(mode="json"),
        "task": spec.task.model_dump(mode="json"),
        "network": averaged,
        "networks": dict(roles),
        "products": [product.facts() for product in delivered],
        "image": image.model_dump(mode="json"),
        **({"class_names": images.class_names} if spec.model.conditional else {}),
        "images_seen": choice.images_seen,
        "selection": choice.facts,
        **interface(delivered[0], image, spec.train),
        "data": {**read_manifest(images.path.parent).preparation, "class_names": images.class_names, "training_images": len(images)},
        "parameters": {name: count(network) for name, network in task.meta_networks(spec.model, spec.task, image).items()},
        "weights": f"moving average, half-life {_half_life(spec.train)} images; batch-norm statistics measured after training",
        "rollbacks": [{key: record[key] for key in ("from_images", "to_images")} for record in bundle.numbers["rollbacks"]],
        "run_key": facts.run_key,
        **({"parent": dict(facts.parent)} if facts.parent is not None else {}),
        "git_commit": facts.tags["git.commit"],
        **({"git_changed": facts.tags["git.changed"].split(", ")} if "git.changed" in facts.tags else {}),
        "data_digest": facts.data_digest,
        "params_digest": facts.tags["params.digest"],
        **({"recipe_digest": facts.tags["recipe.digest"]} if "recipe.digest" in facts.tags else {}),
    }
    with atomic_folder(root / "models") as models:
        networks[averaged] = {k: v.contiguous() for k, v in trained.state_dict().items()}
        for name, tensors in networks.items():
            save_file(tensors, models / f"{name}.safetensors")
        description["sha256"] = sha256_file(models / f"{averaged}.safetensors")
        write_json(models / "generator.json", description)
    measured, alarms = health_of(bundle.numbers), list(bundle.numbers.get("alarms", ()))
    with atomic_folder(root / "reports" / "training") as reports:
        _table(reports / "history.csv", bundle.history, "scalars")
        _table(reports / "health.csv", measured, "values")
        write_json(reports / "alarms.json", alarms)
        (reports / "grids").mkdir()
        for name in storage.names(GRIDS):
            if not name.startswith("."):  # half-written by a process that died
                (reports / "grids" / name).write_bytes(storage.read(f"{GRIDS}/{name}"))
        write_json(reports / "selection.json", {**choice.facts, "candidates": choice.rows})
        curves.draw(bundle.history, reports / "curves.png")
        curves.draw_health(measured, alarms, reports / "health.png")


def _table(path: Path, lines: Sequence[Mapping[str, Any]], numbers: str) -> None:
    """Lines with their numbers as columns; a cell is empty where a line has no such number."""
    names = sorted({name for line in lines for name in line[numbers]})
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "images_seen", *names])
        writer.writerows([line["step"], line["images_seen"], *(line[numbers].get(name, "") for name in names)] for line in lines)


def _half_life(train: TrainConfig) -> str:
    chosen = train.ema_halflife_images
    return " to ".join(f"{number:,.0f}" for number in chosen.ends) if isinstance(chosen, Schedule) else f"{chosen:,}"


def interface(product: Product, image: ImageSpec, train: TrainConfig) -> dict[str, Any]:
    """What goes into the generator and what comes out, for whoever has generator.json and the weights alone."""
    output: dict[str, Any] = {"shape": ["N", image.channels, *image.size], "dtype": "float32"}
    if image.modality == IMAGE:
        channels = {1: "grey", 3: "red, green, blue", 4: "red, green, blue, alpha (not premultiplied; colour under alpha 0 is 0)"}
        to_uint8 = "round((x + 1) * 127.5), cut to 0..255 (ganlib.sampling.to_uint8)"
        output |= {"channels": channels[image.channels], "range": [-1.0, 1.0], "to_uint8": to_uint8}
    else:
        low, high = modalities.of(image.modality).stored_range
        stored = f"cut to {low:g}..{high:g}, as the prepared data are; data.value_range says what that was before"
        output |= {"modality": image.modality, "range": [-1.0, 1.0], "stored": stored}
    return {
        "input": _of_latents(product.feed) if isinstance(product.feed, Prior) else _of_images(product.feed, image),
        "output": output,
        "precision": {"weights": "float32", "training": train.precision, "samples": "float32"},
    }


def _of_latents(prior: Prior) -> dict[str, Any]:
    return {
        "z": {
            "shape": ["N", prior.latent_dim],
            "dtype": "float32",
            "distribution": prior.distribution,
            "drawn": {"normal": "independently from N(0, 1)", "uniform": "independently from U(-1, 1)"}[prior.distribution],
        },
        "labels": None
        if not prior.class_counts
        else {
            "shape": ["N"],
            "dtype": "int64",
            "from": 0,
            "to": len(prior.class_counts) - 1,
            "drawn": "as often as image.class_counts",
        },
        "samples": "image i of a seed: ganlib.sampling.Prior.of(model, image).seeded(seed, range(i, i + 1))",
    }


def _of_images(column: Column, image: ImageSpec) -> dict[str, Any]:
    fed, of = column.fed(image), "image i" if column.field is None else f"row i of column {column.field!r}"
    return {
        "images": {"shape": ["N", fed.channels, *fed.size], "dtype": "float32", "range": [-1.0, 1.0]},
        "samples": f"image i is made of {of} of a held-out split, changed by `transform` of the first of `products`: ganlib.products.Rows",
    }


def count(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())
