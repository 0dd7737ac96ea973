"""A bulk export: images of one generator in parts that are each whole or not there, and can be checked.

OUT/part-00000, part-00001, ... are each what the sample stage writes as samples/ (`ganlib.samples`), and `part.json`, its last file, has the sha256
of the others. Image i is that of (seed, i) whatever the parts and who makes them: each is made in one thread.
"""

import errno
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganlib import samples, sampling
from ganlib.files import sha256_file
from ganlib.sample_settings import DrawConfig
from ganlib.samples import Facts
from ganlib.sampling import Prior
from ganlib.storage import Storage, open_storage
from pipeline.generator import TrainedGenerator
from pipeline.many_files import ManyFiles, durable_folder, files_below
from pipeline.mark import PixelMark
from pipeline.stages.sample import batches

PART, JOB = "part.json", "job.json"
PART_IMAGES = 10_000
OUT = "--out"


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """A bulk export of one generator.

    Attributes:
        out: a folder, or s3://bucket/prefix, gs://..., az://...
        part_images: of each part but the last; a multiple of `config.batch_images`, so that parts change no image.
        mark: what is put into the pixels; None: nothing.
    """

    trained: TrainedGenerator
    config: DrawConfig
    out: str
    part_images: int = PART_IMAGES
    mark: PixelMark | None = None

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
        marked = {} if self.mark is None else {"mark": self.mark.told}
        return {**chosen, "part_images": self.part_images, "generator_sha256": self.trained.facts["sha256"], **marked}

    @property
    def names(self) -> list[str]:
        return [f"part-{number:05d}" for number in range(-(-self.config.num_images // self.part_images))]

    @property
    def storage(self) -> Storage:
        return open_storage(self.out, key=OUT)

    def numbers(self, name: str) -> range:
        """Of the images of a part."""
        start = int(name.removeprefix("part-")) * self.part_images
        return range(start, min(start + self.part_images, self.config.num_images))

    def require_possible(self) -> Storage:
        """Look at what is asked for, and at nothing that is there; returns the place.

        Raises:
            ValueError: a model that is fed images, classes or truncation that it does not have, an address that is none.
        """
        assert isinstance(self.trained.prior, Prior)
        self.trained.options(self.config.truncation)
        _ = self.asked
        return self.storage

    def begin(self) -> None:
        """Say in `out` which job it holds.

        Raises:
            ValueError: what is asked for is not possible, or `out` holds something else.
        """
        storage = self.require_possible()
        there = [name for name in storage.names("") if not name.startswith(".")]  # what a killed process was writing
        if JOB in there:
            if (found := json.loads(storage.read(JOB))) != self.job:
                differ = ", ".join(f"{key} {found.get(key)!r}, not {value!r}" for key, value in self.job.items() if found.get(key) != value)
                raise ValueError(f"{OUT} {self.out} holds the parts of another job ({differ}); take another folder, or the same settings")
        elif there:
            raise ValueError(f"{OUT} {self.out} holds something else than a bulk export ({there[0]}); take a folder that is empty or new")
        else:
            storage.write(JOB, as_json(self.job))


def write_part(bulk: Bulk, name: str) -> str:
    """Make a part where it belongs: a folder is renamed when it is whole, in an object store part.json comes last.

    Raises:
        OSError: the place is full, or cannot be written.
    """
    with _one_thread(), _named(f"{name} of {bulk.out}"):
        if "://" not in bulk.out:
            with durable_folder(Path(bulk.out) / name) as files:
                (files.path / PART).write_bytes(as_json(_written(bulk, name, files.path, files)))
            return name
        with tempfile.TemporaryDirectory(prefix="generate-") as scratch:
            told, storage = _written(bulk, name, Path(scratch)), bulk.storage
            for file in told["sha256"]:
                storage.write(f"{name}/{file}", (Path(scratch) / file).read_bytes())
            storage.write(f"{name}/{PART}", as_json(told))
        return name


def _written(bulk: Bulk, name: str, folder: Path, many: ManyFiles | None = None) -> dict[str, Any]:
    """Write a part's images into `folder`, its single files by `many`; what part.json says."""
    config, asked, numbers = bulk.config, bulk.asked, bulk.numbers(name)
    source = sampling.only(bulk.trained.prior, asked)
    counts = {number: count for number, count in asked.items() if count is not None}
    options = bulk.trained.options(config.truncation)
    facts = Facts(**{**vars(bulk.facts), "first": numbers.start})
    with samples.writing(folder, facts, config.format, write_file=None if many is None else many.write) as writer:
        for inputs in batches(source, numbers, config, counts):
            images = sampling.generate(bulk.trained.network, inputs, batch_images=config.batch_images, **options)
            images = images if bulk.mark is None else bulk.mark.on(images)
            writer.add(images, None if inputs.labels is None else inputs.labels.numpy())
    sha256 = {} if many is None else dict(many.sha256)
    sha256 |= {file: sha256_file(folder / file) for file in files_below(folder) if file not in sha256}
    return {
        "seed": config.seed,
        "first": numbers.start,
        "images": len(numbers),
        "sha256": {file: sha256[file] for file in sorted(sha256, key=lambda file: file.split("/"))},
    }


def part(storage: Storage, name: str) -> dict[str, Any] | None:
    """What a part's part.json says; None where there is none that can be read, so that the part counts as not made."""
    try:
        told: dict[str, Any] = json.loads(storage.read(f"{name}/{PART}"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return told


def changed(storage: Storage, name: str, told: Mapping[str, Any]) -> list[str]:
    """The files of a part that are gone or not what was `told` of them."""
    wrong = []
    for file, expected in told["sha256"].items():
        try:
            found = hashlib.sha256(storage.read(f"{name}/{file}")).hexdigest()
        except FileNotFoundError:
            found = "gone"
        if found != expected:
            wrong.append(f"{name}/{file}")
    return wrong


def as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of floating-point numbers depend on how many threads share them, so the cores of a machine would show in the images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of a disk that name nothing, as pyarrow has them, name `what`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or "not enough disk space" in str(error):
            raise
        code = error.errno or errno.EIO
        raise OSError(code, f"{what} cannot be written: {error.strerror or error}; mend that, and run the same command again") from None
