"""`ganpipe generate`: as many images as are asked for, in parts that are each whole or not there, with a manifest of seeds and checksums.

OUT/part-00000, part-00001, ... are each what the sample stage writes as samples/ (`ganlib.samples`), and `part.json`, its last file, has the sha256
of the others. Image i is that of (seed, i) whatever the parts and the processes, so what was broken off goes on with the parts that are missing.
When all are there, OUT/manifest.json names them.
"""

import argparse
import hashlib
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from ganlib import samples, sampling
from ganlib.files import atomic_folder, sha256_file, write_json
from ganlib.pictures import NOTICE
from ganlib.sample_settings import SampleConfig
from ganlib.samples import Facts
from ganlib.sampling import Prior
from ganlib.storage import open_storage
from pipeline import cli
from pipeline.compare import find
from pipeline.generator import TrainedGenerator
from pipeline.params import ROOT
from pipeline.stages.sample import batches

PART, MANIFEST, JOB = "part.json", "manifest.json", "job.json"
PART_IMAGES = 10_000
NAMED = "--model"


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """A bulk export of one generator.

    Attributes:
        out: a folder, or s3://bucket/prefix, gs://..., az://...
        part_images: of each part but the last; a multiple of `config.batch_images`, so that parts change no image.
    """

    trained: TrainedGenerator
    config: SampleConfig
    out: str
    part_images: int = PART_IMAGES

    def __post_init__(self) -> None:
        if self.part_images < 1 or self.part_images % self.config.batch_images:
            raise ValueError(f"--part {self.part_images}: expected a multiple of --batch {self.config.batch_images}")

    @property
    def facts(self) -> Facts:
        return Facts(
            shape=(self.trained.image.channels, *self.trained.image.size),
            seed=self.config.seed,
            generator_sha256=self.trained.facts["sha256"],
            class_names=tuple(self.trained.class_names),
            drawn_classes=tuple(sorted(self.asked)) or None,
            truncation=self.config.truncation,
        )

    @property
    def asked(self) -> dict[int, int | None]:
        return samples.asked_classes(self.config.classes, self.trained.class_names, self.trained.prior.class_counts)

    @property
    def job(self) -> dict[str, Any]:
        """What makes its images what they are: a folder holds the parts of one job."""
        chosen = self.config.model_dump(mode="json", include={"num_images", "seed", "batch_images", "format", "classes", "truncation"})
        return {**chosen, "part_images": self.part_images, "generator_sha256": self.trained.facts["sha256"]}

    @property
    def names(self) -> list[str]:
        return [f"part-{number:05d}" for number in range(-(-self.config.num_images // self.part_images))]

    def numbers(self, name: str) -> range:
        """Of the images of a part."""
        start = int(name.removeprefix("part-")) * self.part_images
        return range(start, min(start + self.part_images, self.config.num_images))


def generate(bulk: Bulk, *, processes: int = 1) -> dict[str, Any]:
    """Make the parts that are missing, then the manifest, which is returned.

    Raises:
        ValueError: a model that is fed images, classes or truncation that it does not have, or `out` holds the parts of another job.
    """
    assert isinstance(bulk.trained.prior, Prior)
    bulk.trained.options(bulk.config.truncation)
    storage = open_storage(bulk.out)
    is_known = JOB in storage.names("")
    if is_known and (there := json.loads(storage.read(JOB))) != bulk.job:
        differ = ", ".join(f"{key} {there.get(key)!r}, not {value!r}" for key, value in bulk.job.items() if there.get(key) != value)
        raise ValueError(f"--out {bulk.out} holds the parts of another job ({differ}); take another folder, or the same settings")
    if not is_known:
        _ = bulk.asked  # refused before anything is written
        storage.write(JOB, _json(bulk.job))
    missing = [name for name in bulk.names if PART not in storage.names(name)]
    for name in _each(bulk, missing, min(processes, len(missing))):
        cli.say(f"{name}: images {bulk.numbers(name).start:,} to {bulk.numbers(name).stop - 1:,}")
    told = {name: json.loads(storage.read(f"{name}/{PART}")) for name in bulk.names}
    manifest = {**bulk.job, "notice": NOTICE, "model": bulk.trained.facts.get("family"), "parts": told}
    storage.write(MANIFEST, _json(manifest))
    return manifest


def write_part(bulk: Bulk, name: str) -> str:
    """Make a part where it belongs: a folder is renamed when it is whole, in an object store part.json comes last."""
    if "://" not in bulk.out:
        with atomic_folder(Path(bulk.out) / name) as folder:
            write_json(folder / PART, _written(bulk, name, folder))
        return name
    with tempfile.TemporaryDirectory(prefix="generate-") as scratch:
        told, storage = _written(bulk, name, Path(scratch)), open_storage(bulk.out)
        for file in told["sha256"]:
            storage.write(f"{name}/{file}", (Path(scratch) / file).read_bytes())
        storage.write(f"{name}/{PART}", _json(told))
    return name


def _written(bulk: Bulk, name: str, folder: Path) -> dict[str, Any]:
    """Write a part's images into `folder`; what part.json says."""
    config, asked, numbers = bulk.config, bulk.asked, bulk.numbers(name)
    source = sampling.only(bulk.trained.prior, asked)
    counts = {number: count for number, count in asked.items() if count is not None}
    options = bulk.trained.options(config.truncation)
    facts = Facts(**{**vars(bulk.facts), "first": numbers.start})
    with samples.writing(folder, facts, config.format) as writer:
        for inputs in batches(source, numbers, config, counts):
            images = sampling.generate(bulk.trained.network, inputs, batch_images=config.batch_images, **options)
            writer.add(images, None if inputs.labels is None else inputs.labels.numpy())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "seed": config.seed,
        "first": numbers.start,
        "images": len(numbers),
        "sha256": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
    }


def verify(out: str) -> list[str]:
    """The files of a finished export that are gone or not what its manifest says."""
    storage = open_storage(out)
    manifest = json.loads(storage.read(MANIFEST))
    wrong = []
    for name, part in manifest["parts"].items():
        for file, expected in part["sha256"].items():
            try:
                found = hashlib.sha256(storage.read(f"{name}/{file}")).hexdigest()
            except OSError:
                found = "gone"
            if found != expected:
                wrong.append(f"{name}/{file}")
    return wrong


def _each(bulk: Bulk, names: Sequence[str], processes: int) -> Iterator[str]:
    if processes <= 1:
        yield from map(partial(write_part, bulk), names)
        return
    threads = max(1, torch.get_num_threads() // processes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        yield from pool.map(partial(write_part, bulk), names)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def classes_of(words: Sequence[str], names: Sequence[str]) -> list[str | int] | dict[str | int, int] | None:
    """`cat dog`, `0 3` or `cat=300 dog=700` as `sample.classes` has it; a number that is itself a class's name is that name.

    Raises:
        ValueError: some with a count and some without.
    """
    if not words:
        return None
    pairs = [
        (word, "") if word in names else (word.rpartition("=")[0] or word, word.rpartition("=")[2] if "=" in word else "") for word in words
    ]
    keys = [int(name) if name.isdigit() and name not in names else name for name, _ in pairs]
    counts = [count for _, count in pairs]
    if not any(counts):
        return keys
    if not all(count.isdigit() for count in counts):
        raise ValueError(f"--classes {' '.join(words)}: expected a whole number for each, as in cat=300 dog=700, or for none")
    return {key: int(count) for key, count in zip(keys, counts, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.generate", description=__doc__)
    parser.add_argument(NAMED, required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/")
    parser.add_argument("--count", type=int, help="images; with counts in --classes, their sum")
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="names or numbers; with counts: cat=300 dog=700")
    parser.add_argument("--out", required=True, help="a folder, or s3://bucket/prefix")
    parser.add_argument("--format", choices=get_args(samples.Format), default="parquet")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--truncation", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=250, help="images of a forward pass; part of the numerics")
    parser.add_argument("--part", type=int, default=PART_IMAGES, help="images of a part")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="generate-") as scratch:
        trained = find(options.model, Path(scratch) / "model", ROOT).trained
    classes = classes_of(options.classes, trained.class_names)
    total = sum(classes.values()) if isinstance(classes, dict) else options.count
    if total is None or options.count not in (None, total):
        raise ValueError(f"--count {options.count}: expected {'how many images' if total is None else f'{total}, the sum of --classes'}")
    asked = {"num_images": total, "seed": options.seed, "batch_images": options.batch, "format": options.format}
    config = SampleConfig.model_validate({**asked, "classes": classes, "truncation": options.truncation})
    manifest = generate(Bulk(trained=trained, config=config, out=options.out, part_images=options.part), processes=options.processes)
    print(f"{options.out}: {manifest['num_images']:,} images ({manifest['format']}) in {len(manifest['parts'])} parts, {MANIFEST}")


if __name__ == "__main__":
    cli.run(main)
