"""`ganpipe generate`: as many images as are asked for, in parts that are each whole or not there, with a manifest of seeds and checksums.

What was broken off, by whatever means, goes on when the same command runs again: with the parts that are missing, and with those whose files are
not what their part.json says. When all are there, OUT/manifest.json names them. The bytes do not depend on how many workers make them.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ganlib import config, samples
from ganlib.pictures import NOTICE
from ganlib.sample_settings import DrawConfig
from ganlib.storage import open_storage
from pipeline import bulk, cli, credentials, mark, params
from pipeline.bulk import OUT, PART_IMAGES, Bulk
from pipeline.compare import find
from pipeline.credentials import Credentials
from pipeline.driver import ray_tasks
from pipeline.driver.settings import ClusterConfig
from pipeline.params import ROOT

MANIFEST = "manifest.json"
NAMED = "--model"


def generate(wanted: Bulk, *, workers: int = 1, cluster: ClusterConfig | None = None, keys: Credentials | None = None) -> dict[str, Any]:
    """Make the parts that are missing or changed, then the manifest, which is returned.

    Args:
        workers: parts that are made at once, on the Ray that `cluster` names; without one they are made here, one after the other.
        keys: of the signature beside the manifest; None: unsigned.

    Raises:
        ValueError: a model that is fed images, classes or truncation that it does not have, or `out` holds something else.
        OSError: `out` cannot be written; the parts that were done stay.
    """
    wanted.begin()
    storage, missing = wanted.storage, []
    for name in wanted.names:
        told = bulk.part(storage, name)
        wrong = [] if told is None else bulk.changed(storage, name, told)
        if wrong:
            cli.say(f"{name} is made again: {', '.join(wrong[:3])}{' and others' if len(wrong) > 3 else ''} is not what {bulk.PART} says")
        if wrong or told is None:
            missing.append(name)
    if missing and len(missing) < len(wanted.names):
        cli.say(f"{len(wanted.names) - len(missing)} of {len(wanted.names)} parts are there")
    for done, name in enumerate(_each(wanted, missing, min(workers, len(missing)), cluster), start=1):
        cli.say(f"{name}: images {wanted.numbers(name).start:,} to {wanted.numbers(name).stop - 1:,} ({done} of {len(missing)})")
    parts = {name: bulk.part(storage, name) for name in wanted.names}
    manifest = {**wanted.job, "notice": NOTICE, "model": wanted.trained.facts.get("family"), "parts": parts}
    storage.write(MANIFEST, bulk.as_json(manifest))
    if keys is not None:
        storage.write(MANIFEST + credentials.SIGNATURE, credentials.sign(keys, bulk.as_json(manifest)))
    return manifest


def _each(wanted: Bulk, names: Sequence[str], workers: int, cluster: ClusterConfig | None) -> Iterator[str]:
    if cluster is None or not names:
        return (bulk.write_part(wanted, name) for name in names)
    return ray_tasks.each(bulk.write_part, wanted, names, cluster, workers=workers)


def verify(out: str) -> list[str]:
    """The files of a finished export that are gone or not what its manifest says.

    Raises:
        ValueError: no manifest.
    """
    storage = open_storage(out, key=OUT)
    try:
        manifest = json.loads(storage.read(MANIFEST))
    except FileNotFoundError:
        raise ValueError(f"{OUT} {out} holds no {MANIFEST}: no export, or one that was broken off; run its command again") from None
    return [file for name, told in manifest["parts"].items() for file in bulk.changed(storage, name, told)]


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


def _check(out: str) -> None:
    if wrong := verify(out):
        raise ValueError(f"{out}: {len(wrong)} files are gone or changed: {', '.join(wrong[:5])}; run the command that made it again")
    print(f"{out}: every file is what {MANIFEST} says")


def _at_least(least: int, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: expected a whole number, {least} or more")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.generate", description=__doc__)
    parser.add_argument(NAMED, help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/")
    parser.add_argument("--count", type=int, help="images; with counts in --classes, their sum")
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="names or numbers; with counts: cat=300 dog=700")
    parser.add_argument(OUT, required=True, help="a folder (of several machines: one that they share), or s3://bucket/prefix")
    parser.add_argument("--format", choices=get_args(samples.Format), default="parquet")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--truncation", type=float, default=1.0, help="above 0, 1 at most; style-based generators only")
    parser.add_argument("--batch", type=int, default=250, help="images of a forward pass; part of the numerics")
    parser.add_argument("--part", type=int, default=PART_IMAGES, help="images of a part")
    parser.add_argument("--workers", type=int, default=1, help="1: this process; more: on the Ray that `cluster` of params.yaml names")
    parser.add_argument("--check", action="store_true", help="make nothing: say which files of a finished OUT are gone or changed")
    options = parser.parse_args()
    if options.check:
        return _check(options.out)
    if options.model is None:
        parser.error(f"{NAMED} is missing")
    _at_least(1, count=options.count, batch=options.batch, part=options.part, workers=options.workers)
    _at_least(0, seed=options.seed)
    if not 0 < options.truncation <= 1:
        raise ValueError(f"--truncation {options.truncation:g}: expected more than 0, and 1 at most")
    keys = credentials.from_environment()
    cluster = params.section("cluster", ClusterConfig) if options.workers > 1 else None
    with tempfile.TemporaryDirectory(prefix="generate-") as scratch:
        trained = find(options.model, Path(scratch) / "model", ROOT).trained
    classes = classes_of(options.classes, trained.class_names)
    total = sum(classes.values()) if isinstance(classes, dict) else options.count
    if total is None or options.count not in (None, total):
        raise ValueError(f"--count {options.count}: expected {'how many images' if total is None else f'{total}, the sum of --classes'}")
    asked = {"num_images": total, "seed": options.seed, "batch_images": options.batch, "format": options.format}
    chosen = config.options(DrawConfig, {**asked, "classes": classes, "truncation": options.truncation}, key="sample")
    out = options.out if "://" in options.out else str(Path(options.out).absolute())
    wanted = Bulk(trained=trained, config=chosen, out=out, part_images=options.part)
    wanted.require_possible()
    wanted = replace(wanted, mark=mark.pixel_mark(*trained.image.size))
    if keys is None:
        cli.say(f"the manifest is not signed: {credentials.CERTIFICATE} and {credentials.PRIVATE_KEY} are not set")
    manifest = generate(wanted, workers=options.workers, cluster=cluster, keys=keys)
    marked = "" if wanted.mark is None else "; marked: `ganpipe detect` finds it"
    print(f"{options.out}: {manifest['num_images']:,} images ({manifest['format']}) in {len(manifest['parts'])} parts, {MANIFEST}{marked}")
    return None


if __name__ == "__main__":
    cli.run(main)
