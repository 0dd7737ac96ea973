"""`python -m pipeline.compare RUN RUN...`: models side by side on the same latents, and which of their numbers differ by more than chance."""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ganlib import sampling, tasks
from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.fields import IMAGE
from ganlib.files import atomic_folder, sha256_file, write_json
from ganlib.models import build_network
from ganlib.models.settings import ModelConfig
from ganlib.products import Column, Feed, Product
from ganlib.sampling import Inputs, Prior
from ganlib.train_settings import TrainConfig, is_key
from ganlib.training import parent
from ganlib.training.hooks import calibrate_generator
from ganlib.training.loop import image_of
from pipeline import cli, continuing, generator, params, parents
from pipeline.generator import TrainedGenerator
from pipeline.params import ROOT
from pipeline.report import side_by_side
from pipeline.report.side_by_side import Model
from pipeline.tracking import versions
from pipeline.tracking.settings import TrackingConfig

FOLDER = "reports/compare"
BATCH_IMAGES = 50  # fixed, because it is part of the numerics
NAMED = "RUN"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model as it was found: what it is called here, its generator, and its evaluation where there is one of these very weights."""

    name: str
    trained: TrainedGenerator
    evaluation: Mapping[str, Any] | None


def compare(runs: Sequence[str], *, images: int, seed: int, root: Path = ROOT, output: Path) -> Path:
    """Write `output`/compare.html, compare.png and compare.json; returns the page.

    Args:
        runs: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run key of a state (8 digits or more), or a folder like models/.
        images: of each model, from the first latents of `seed`.

    Raises:
        ValueError: fewer than two, or one is not there.
    """
    if len(runs) < 2:
        raise ValueError(f"got {len(runs)} run{'s' if len(runs) > 1 else ''}, expected two or more to set side by side")
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        found = [find(run, Path(scratch) / str(index), root) for index, run in enumerate(runs)]
    for model in found:
        if (made := model.trained.image.modality) != IMAGE:
            raise ValueError(f"{NAMED}={model.name} makes {made}, and models are compared by their pictures; read its reports/report.html")
    products = [model.trained.product for model in found]
    models = [
        Model(
            name=model.name,
            facts=model.trained.facts,
            images=sampling.generate(model.trained.network, _inputs(products[0], product, seed, images, root), batch_images=BATCH_IMAGES),
            has_same_latents=_has_same_latents(products[0].feed, product.feed),
            evaluation=model.evaluation,
        )
        for model, product in zip(found, products, strict=True)
    ]
    with atomic_folder(output) as folder:
        (folder / "compare.html").write_text(side_by_side.render(models, seed=seed), encoding="utf-8")
        (folder / "compare.png").write_bytes(side_by_side.picture(models))
        write_json(folder / "compare.json", side_by_side.summary(models))
    return output / "compare.html"


def _has_same_latents(first: Feed, feed: Feed) -> bool:
    if isinstance(first, Prior) and isinstance(feed, Prior):
        return (first.latent_dim, first.distribution) == (feed.latent_dim, feed.distribution)
    return first == feed


def _inputs(first: Product, product: Product, seed: int, count: int, root: Path) -> Inputs:
    """The first latents of `seed`, and the classes that the first model is asked for where both know the same ones; or the first held-out images."""
    if isinstance(product.feed, Column):
        _, held_out = generator.held_out(root)
        return product.source(held_out).seeded(seed, range(min(count, len(held_out))))
    prior, inputs = product.feed, product.feed.seeded(seed, range(count))
    if inputs.labels is None or not isinstance(first.feed, Prior):
        return inputs
    if first.feed.class_counts == prior.class_counts or len(first.feed.class_counts) != len(prior.class_counts):
        return inputs
    asked = first.feed.seeded(seed, range(count)).labels
    assert asked is not None
    return Inputs(inputs.z, asked) if set(asked.tolist()) <= set(prior.classes) else inputs


def find(run: str, scratch: Path, root: Path) -> Found:
    """The generator that `run` names.

    Raises:
        ValueError: says what was looked for, and where.
    """
    scratch.mkdir()
    if run.startswith(continuing.REGISTRY):
        return _of_version(run, scratch, root)
    folder = root / run
    if is_key(run) and not folder.exists():
        return _of_state(run, scratch, root)
    trained = generator.load(folder)
    measured = _evaluation(trained.facts["sha256"], folder, folder.resolve().parent / "reports", root / "reports")
    return Found(name=run, trained=trained, evaluation=measured)


def _evaluation(sha256: str, *folders: Path) -> Mapping[str, Any] | None:
    """The first evaluation.json in `folders` that is of these weights."""
    for path in (folder / "evaluation.json" for folder in folders):
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["protocol"]["generator_sha256"] == sha256:
                return found
    return None


def _of_version(run: str, scratch: Path, root: Path) -> Found:
    tracking = params.section("tracking", TrackingConfig)
    where = versions.fetch(run, None, scratch, tracking, root, named=NAMED)
    trained = generator.load(scratch)
    versions.evaluation(where, scratch, tracking, root)
    measured = _evaluation(trained.facts["sha256"], scratch, root / "reports")
    return Found(name=run if run == where else f"{run} ({where})", trained=trained, evaluation=measured)


def _of_state(run: str, scratch: Path, root: Path) -> Found:
    """The averaged generator of a training's newest checkpoint, finished or not; the data it was trained on must be the prepared ones."""
    found = parents.trained(f"{NAMED}={run}", run, params.section("train", TrainConfig).state_uri, root)
    prepared = root / "data" / "prepared"
    if not (prepared / "manifest.json").is_file() or (digest := read_manifest(prepared).data_digest) != found.data_digest:
        has = f"has digest {digest[:12]}" if (prepared / "manifest.json").is_file() else "is not there"
        raise ValueError(
            f"{NAMED}={run}: that training is of data with digest {found.data_digest[:12]}, and data/prepared {has}; a state does not say what its "
            "images are like: prepare its data, or name its version or its models/ folder"
        )
    images = ArrowImages(split_path(prepared, "train"))
    image, model, task = (
        image_of(images),
        ModelConfig.model_validate(found.settings["model"]),
        tasks.settings(found.settings.get("task", {})),
    )
    delivered, roles = tasks.of(task).products(model, task, image), tasks.of(task).networks(task)
    averaged = delivered[0].network
    network = build_network(model, image, averaged, role=roles[averaged], seed=0, fed=delivered[0].fed(image))
    weights = parent.weights_of(found.bundle)
    network.load_state_dict({name: weights[f"{averaged}.{name}"] for name in network.state_dict()})
    for product in delivered:
        calibrate_generator(product.of(network), product.source(images), TrainConfig.model_validate(found.settings["train"]))
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, scratch / f"{averaged}.safetensors")
    sha256 = sha256_file(scratch / f"{averaged}.safetensors")
    facts = {
        "family": model.name,
        "model": model.model_dump(mode="json"),
        "task": task.model_dump(mode="json"),
        "network": averaged,
        "networks": dict(roles),
        "products": [product.facts() for product in delivered],
        "image": image.model_dump(mode="json"),
        **({"class_names": images.class_names} if model.conditional else {}),
        "images_seen": found.bundle.images_seen,
        "run_key": found.run_key,
        "data_digest": found.data_digest,
        "sha256": sha256,
    }
    write_json(scratch / "generator.json", facts)
    return Found(name=run, trained=generator.load(scratch), evaluation=_evaluation(sha256, root / "reports"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar=NAMED, help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/"
    )
    parser.add_argument("--images", type=int, default=48, help="of each model (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="of the latents (default: 0)")
    parser.add_argument("--output", type=Path, default=None, help=f"a folder, which is written anew (default: {FOLDER})")
    options = parser.parse_args()
    root = params.project()
    if options.images < 1:
        parser.error(f"--images {options.images}: expected at least 1")
    output = options.output or root / FOLDER
    if output.exists() and not (output / "compare.json").is_file():
        parser.error(f"--output {output} holds something else; name a folder that is not there")
    print(compare(options.runs, images=options.images, seed=options.seed, root=root, output=output))


if __name__ == "__main__":
    cli.run(main)
