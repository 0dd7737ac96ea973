"""data/reference: extractors with the features of the real images, keyed by the content they were made from and never by a path.

One folder an extractor (its label), `extractor.*` and `features.safetensors` in it; `reference.json` names them, the main one first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ganlib.files import write_json
from ganlib.metrics import interface
from ganlib.metrics.intervals import wilson
from ganlib.metrics.settings import Depth

FORMAT = 3
FEATURES_FILE = "features.safetensors"
SUMMARY_FILE = "reference.json"
MADE_WITH = "made_with"  # one entry, for safetensors writes several in no order, and a stage's out must have the same bytes


@dataclass(frozen=True)
class Described:
    """An extractor, and the real images as it sees them."""

    label: str  # in keys (`fid@label`) and folders
    extractor: interface.Extractor
    tensors: Mapping[str, Tensor]  # "<split>.<depth>" [n, d] float32
    facts: Mapping[str, Any]  # its entry in reference.json: name, sha256, depths, accuracy

    def told(self, split: str) -> dict[str, Any]:
        """Its entry in a protocol: `facts` with the accuracy on that split."""
        return {**self.facts, "accuracy": self.facts["accuracy"].get(split)}

    def doubt(self, split: str, images: interface.Images) -> str:
        """Why nothing that it shows is to be trusted: on these images of `split` it is no better than the commonest answer; "" where it is."""
        accuracy, chance = self.facts["accuracy"].get(split), self.extractor.chance(images)
        if accuracy is None or chance is None or wilson(accuracy, len(images))[0] > chance:
            return ""
        return (
            f"the extractor {self.label} has learnt nothing: it is right on {accuracy:.3f} of the {split} split, "
            f"and whoever always says the commonest answer on {chance:.3f}"
        )

    def features(self, split: str, depth: Depth = "last") -> Tensor:
        """[n, d] float32; of depth "last" where the extractor has no other.

        Raises:
            ValueError: the split has fewer than 2 images.
        """
        key = f"{split}.{interface.depth_of(self.extractor, depth)}"
        if key not in self.tensors:
            raise ValueError(f"the {split} split has fewer than 2 images; set data.{split}_fraction above 0, or another evaluate.split")
        return self.tensors[key]


@dataclass(frozen=True)
class Reference:
    """data/reference, checked against the data it claims to describe."""

    described: tuple[Described, ...]  # the main one first
    indices: Mapping[str, Tensor]  # split -> [n] int64, the images that the rows of every extractor's features are of
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, *, data_digest: str) -> "Reference":
        """Raises ValueError when the folder was made from other data, by another extractor, or by an older version of this project."""
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        if summary.get("format") != FORMAT:
            raise ValueError(f"{folder} has format {summary.get('format')}, expected {FORMAT}; run `dvc repro reference`")
        described, indices = [], {}
        for facts in summary["extractors"]:
            extractor = interface.load(folder / facts["label"])
            with safe_open(folder / facts["label"] / FEATURES_FILE, framework="pt") as file:
                found = json.loads(file.metadata()[MADE_WITH])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
            said = {"data_digest": summary["data_digest"], "extractor_sha256": facts["sha256"]}
            for key, value in (("data_digest", data_digest), ("extractor_sha256", interface.sha256(extractor))):
                if not value == found.get(key) == said[key]:
                    raise ValueError(f"{folder} was made with {key} {found.get(key)}, expected {value}; run `dvc repro reference`")
            indices = {name.removesuffix(".indices"): tensor for name, tensor in tensors.items() if name.endswith(".indices")}
            described.append(Described(facts["label"], extractor, tensors, facts))
        return cls(tuple(described), indices, summary)

    @property
    def main(self) -> Described:
        return self.described[0]

    @property
    def extractor(self) -> interface.Extractor:
        """The main one."""
        return self.main.extractor

    @cached_property
    def knows_classes(self) -> Described | None:
        """The first extractor that tells the data's classes."""
        for each in self.described:
            if each.extractor.class_logits(each.features("train")[:1]) is not None:
                return each
        return None

    @property
    def of_paths(self) -> Described | None:
        """The first extractor that sees steps smaller than a grey level."""
        return next((each for each in self.described if each.extractor.takes_float), None)

    def features(self, split: str, depth: Depth = "last") -> Tensor:
        """Of the main extractor."""
        return self.main.features(split, depth)


def write(folder: Path, described: Described, indices: Mapping[str, Tensor], *, data_digest: str) -> None:
    """Write `folder`/<label>, which does not exist yet."""
    place = folder / described.label
    place.mkdir()
    digest = interface.save(described.extractor, place)
    assert digest == described.facts["sha256"]
    tensors = {**described.tensors, **{f"{split}.indices": tensor for split, tensor in indices.items()}}
    made_with = json.dumps({"data_digest": data_digest, "extractor_sha256": digest}, sort_keys=True)
    save_file(tensors, place / FEATURES_FILE, metadata={MADE_WITH: made_with})


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_json(folder / SUMMARY_FILE, {"format": FORMAT, **summary})
