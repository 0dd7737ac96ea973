"""data/reference: an extractor with the features of the real images, keyed by the content it was made from and never by a path."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ganlib.metrics import interface

FEATURES_FILE = "features.safetensors"
SUMMARY_FILE = "reference.json"


@dataclass(frozen=True)
class Reference:
    """data/reference, checked against the data it claims to describe."""

    extractor: interface.Extractor
    tensors: dict[str, Tensor]  # "<split>.features" [n, d] float32, "<split>.indices" [n] int64
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, *, data_digest: str) -> "Reference":
        """Raises ValueError when the folder was made from other data or by another extractor."""
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        extractor = interface.load(folder)
        with safe_open(folder / FEATURES_FILE, framework="pt") as file:
            found = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
        expected = {"data_digest": data_digest, "extractor_sha256": interface.sha256(extractor)}
        for key, value in expected.items():
            if not value == found.get(key) == summary.get(key):
                raise ValueError(f"{folder} was made with {key} {found.get(key)}, expected {value}; run `dvc repro reference`")
        return cls(extractor, tensors, summary)

    def features(self, split: str) -> Tensor:
        if f"{split}.features" not in self.tensors:
            raise ValueError(f"the {split} split has fewer than 2 images; set data.{split}_fraction above 0, or another evaluate.split")
        return self.tensors[f"{split}.features"]
