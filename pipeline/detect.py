"""`ganpipe detect`: whether images carry the mark of a key, with a p-value each and for all of one size together, or signed C2PA metadata.

A p-value is the probability that images without the mark look like this under a random key; one of 0.001 comes up once in a thousand unmarked images.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.marks import detection
from ganlib.pictures import NOTICE
from ganlib.samples import FACTS_FILE, Samples
from pipeline import cli, credentials, mark

KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "",
    ".tif": "image/tiff",
}
MANIFEST = "manifest.json"
POOLED = 512  # images that are judged together at most
CROPS_UP_TO = 64  # images of one size among which crops are looked for unless asked
SHOWN = 40  # lines
LABEL = "; says that it is synthetic, unsigned"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image: a file, or a row of samples that were written in another format."""

    name: str
    file: Path
    row: int | None = None

    def pixels(self, rows: dict[Path, Samples]) -> np.ndarray:
        if self.row is not None:
            return np.asarray(rows[self.file].gather(np.array([self.row]))[0])
        with mark.open_image(self.file) as image:
            try:
                return mark.planes(image)
            except (OSError, SyntaxError):
                raise ValueError(f"{self.file}: no image that can be read to its end") from None

    def label(self) -> bool:
        """Whether its metadata say, unsigned, that it is synthetic: the notice of this project, or IPTC's digital source type."""
        if self.row is not None:
            return False
        with mark.open_image(self.file) as image:
            words = [str(value) for name, value in image.info.items() if name in ("Notice", "XML:com.adobe.xmp", "xmp")]
        return any(NOTICE in text or credentials.SYNTHETIC in text for text in words)

    def claim(self) -> credentials.Claim | None:
        kind = KINDS.get(self.file.suffix.lower(), "")
        return credentials.read(kind, self.file.read_bytes()) if self.row is None and kind else None


def found_in(places: Sequence[Path]) -> tuple[list[Item], dict[Path, Samples]]:
    """The images of files and folders; of a folder's other files nothing is said.

    Raises:
        ValueError: no such file, or a folder without images.
    """
    items: list[Item] = []
    rows: dict[Path, Samples] = {}
    for place in places:
        if not place.exists():
            raise ValueError(f"{place}: no such file or folder")
        if place.is_file():
            items.append(Item(name=str(place), file=place))
            continue
        of_place = list(_in_folder(place, rows))
        if not of_place:
            raise ValueError(f"{place} holds no images; expected files like {', '.join(KINDS)}, or what `ganpipe generate` writes")
        items += of_place
    return items, rows


def _in_folder(place: Path, rows: dict[Path, Samples]) -> Iterator[Item]:
    packed = []
    for facts in sorted(place.rglob(FACTS_FILE)):
        samples = Samples(facts.parent)
        if not any((facts.parent / name).is_dir() for name in ("images",)):  # files of their own are found below
            packed.append(facts.parent)
            rows[facts.parent] = samples
            yield from (Item(name=f"{facts.parent}#{row}", file=facts.parent, row=row) for row in range(len(samples)))
    for file in sorted(place.rglob("*")):
        if file.is_file() and file.suffix.lower() in KINDS and not any(folder in file.parents for folder in packed):
            yield Item(name=str(file), file=file)


def detect(items: Sequence[Item], rows: dict[Path, Samples], *, key: str, crops: bool) -> dict[str, Any]:
    """What is found, as JSON.

    Keys: `images` (name, p_value, place, label, c2pa), `together` (size, images, p_value, place), `left_out` (name: why).
    """
    images: list[dict[str, Any]] = []
    together: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for size, group in _of_one_size(items, rows, left_out):
        array = np.stack([pixels for _, pixels in group])
        try:
            alone, both = detection.detect(array, key=key, crops=crops or len(group) <= CROPS_UP_TO)
        except ValueError as error:
            left_out.update({item.name: str(error) for item, _ in group})
            continue
        for (item, _), found in zip(group, alone, strict=True):
            images.append({"name": item.name, **asdict(found), "label": item.label(), "c2pa": None})
        entry = together.setdefault(size, {"size": size, "images": 0, "p_value": 1.0, "place": both.place, "groups": 0})
        entry["images"] += len(group)
        entry["groups"] += 1
        if both.p_value < entry["p_value"]:
            entry |= {"p_value": both.p_value, "place": both.place}
    for entry in together.values():
        entry["p_value"] = min(1.0, entry["p_value"] * entry.pop("groups"))  # Bonferroni
    return {"images": images, "together": list(together.values()), "left_out": left_out}


def _of_one_size(
    items: Sequence[Item], rows: dict[Path, Samples], left_out: dict[str, str]
) -> Iterator[tuple[str, list[tuple[Item, np.ndarray]]]]:
    """Groups of at most POOLED images of one size, with their pixels; what is no image is `left_out`, where it is not all there is."""
    waiting: dict[str, list[tuple[Item, np.ndarray]]] = {}
    for item in items:
        try:
            pixels = item.pixels(rows)
        except ValueError as error:
            if len(items) == 1:
                raise
            left_out[item.name] = str(error).removeprefix(f"{item.file}: ")
            continue
        size = f"{pixels.shape[2]}x{pixels.shape[1]}, {len(pixels)} channel{'s' if len(pixels) > 1 else ''}"
        group = waiting.setdefault(size, [])
        group.append((item, pixels))
        if len(group) == POOLED:
            yield size, waiting.pop(size)
    yield from waiting.items()


def claims(items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """C2PA metadata by name of the image that has them."""
    return {item.name: asdict(claim) for item in items if (claim := item.claim()) is not None}


def signed_manifests(places: Sequence[Path]) -> dict[str, str | None]:
    """Manifests of bulk exports with a signature beside them -> who signed these very bytes, None where it is not of them."""
    manifests = [file for place in places if place.is_dir() for file in place.rglob(MANIFEST)]
    beside = {file: file.with_name(file.name + credentials.SIGNATURE) for file in manifests}
    return {str(file): credentials.signer_of(file.read_bytes(), by.read_bytes()) for file, by in beside.items() if by.is_file()}


def lines(found: dict[str, Any], key_name: str) -> Iterator[str]:
    for image in found["images"][:SHOWN]:
        yield f"{image['name']}: {_words(image)}{LABEL if image['label'] else ''}{_claim(image['c2pa'])}"
    if (more := len(found["images"]) - SHOWN) > 0:
        yield f"... and {more:,} more (--json has all)"
    for name, why in list(found["left_out"].items())[:SHOWN]:
        yield f"{name}: left out, {why}"
    for entry in found["together"]:
        if entry["images"] > 1:
            yield f"{entry['images']:,} images of {entry['size']} together: {_words(entry)}"
    for name, signer in found["manifests"].items():
        yield f"{name}: {f'signed by {signer}' if signer else 'the signature beside it is not of these bytes'}"
    few = sum(image["p_value"] < detection.FOUND for image in found["images"])
    total = len(found["images"])
    yield (
        f"{key_name}: {few:,} of {total:,} images have a p-value below {detection.FOUND:g} alone; chance makes {total * detection.FOUND:.2g}. "
        f"C2PA metadata: {sum(image['c2pa'] is not None for image in found['images']):,}"
    )


def _words(entry: dict[str, Any]) -> str:
    p = entry["p_value"]
    return f"marked, p = {p:.1e} ({entry['place']})" if p < detection.FOUND else f"no mark found, p = {p:.2g}"


def _claim(claim: dict[str, Any] | None) -> str:
    if claim is None:
        return ""
    kind = "synthetic" if claim["is_synthetic"] else "not said to be synthetic"
    model = f", made by {claim['model']}" if claim["model"] else ""
    return f"; C2PA: {kind}{model}, signed by {claim['signer']}" + ("" if claim["is_valid"] else ", BUT CHANGED SINCE, or wrongly signed")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.detect", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="FILE", help="images, folders of them, or what `ganpipe generate` wrote")
    parser.add_argument("--crops", action="store_true", help=f"look for crops among more than {CROPS_UP_TO} images of one size too: slow")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    options = parser.parse_args()
    items, rows = found_in(options.places)
    key_name = f"key of {mark.KEY}" if os.environ.get(mark.KEY) else "key of marks.key in params.yaml, or its default"
    found = detect(items, rows, key=mark.settings().key, crops=options.crops)
    try:
        said = claims(items)
    except ValueError as error:
        said = {}
        cli.say(f"C2PA metadata were not looked for: {error}")
    for image in found["images"]:
        image["c2pa"] = said.get(image["name"])
    found["manifests"] = signed_manifests(options.places)
    if options.json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return
    for line in lines(found, key_name):
        print(line)


if __name__ == "__main__":
    cli.run(main)
