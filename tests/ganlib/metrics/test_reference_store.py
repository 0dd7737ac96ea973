"""data/reference on disk: the same bytes for the same numbers, and nothing read that was made from something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib.files import sha256_file
from ganlib.metrics import interface, reference_store
from ganlib.metrics.interface import ArrayImages
from ganlib.metrics.pixel_features import Pixels
from ganlib.metrics.reference_store import FEATURES_FILE, Described, Reference

DATA = "a" * 64


def described() -> Described:
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    extractor = Pixels.fit(ArrayImages(images), None, seed=0, epochs=1)
    facts = {"label": "pixels", "sha256": interface.sha256(extractor), "accuracy": {}}
    return Described("pixels", extractor, {"train.last": extractor.features(torch.from_numpy(images))["last"]}, facts)


def written(folder: Path) -> Path:
    one = described()
    folder.mkdir()
    reference_store.write(folder, one, {"train": torch.arange(4)}, data_digest=DATA)
    reference_store.write_summary(folder, {"extractors": [dict(one.facts)], "data_digest": DATA})
    return folder


def test_the_same_features_are_the_same_bytes(tmp_path: Path) -> None:
    """A stage's out with other bytes each time makes DVC run what follows again. safetensors writes several entries of a header's metadata in no
    order, so two of them were equal in one of two runs: all of twelve, by chance, in one of two thousand."""
    files = [written(tmp_path / str(i)) / "pixels" / FEATURES_FILE for i in range(12)]
    assert len({sha256_file(file) for file in files}) == 1


def test_it_is_read_back_for_its_own_data_and_no_other(tmp_path: Path) -> None:
    folder, one = written(tmp_path / "reference"), described()
    found = Reference.read(folder, data_digest=DATA)
    assert torch.equal(found.features("train"), one.features("train"))
    assert torch.equal(found.indices["train"], torch.arange(4))
    with pytest.raises(ValueError, match=r"was made with data_digest aaaa.*expected bbbb.*dvc repro reference"):
        Reference.read(folder, data_digest="b" * 64)
