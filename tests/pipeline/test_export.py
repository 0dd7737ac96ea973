"""A model as a folder of files: what Hugging Face's loader makes of it, and what its card says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ganlib.models import ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from pipeline import export, model_card
from tests.pipeline.test_forms import NAMES, made

FACTS = {
    "family": "stylegan2",
    "class_names": NAMES,
    "data": {"source": "digits", "training_images": 1437, "image_size": [8, 8]},
    "data_digest": "d" * 64,
    "images_seen": 100_000,
    "weights": "moving average",
    "run_key": "key",
    "git_commit": "c",
    "sha256": "a" * 64,
}
EVALUATION = {
    "fid": 12.34,
    "fid_low": 11.5,
    "fid_high": 13.5,
    "ruler": {"untrusted": {"fid": "it does not see noise"}, "warnings": ["few held-out images"]},
    "protocol": {"split": "test", "n_fake": 500, "n_real": 300, "extractor": "classifier"},
}


def exported(folder: Path, **options) -> export.TrainedGenerator:
    trained = made("stylegan2")
    trained.facts.update(FACTS, model=trained.model.model_dump(mode="json"), image=trained.image.model_dump(mode="json"))
    export.export(trained, folder, truncation=0.6, **options)
    return trained


class Network(nn.Module):
    """What config.json and model.safetensors are enough for."""

    def __init__(self, model: dict, image: dict) -> None:
        super().__init__()
        self.network = build_network(ModelConfig.model_validate(model), ImageSpec.model_validate(image), "generator", seed=1).eval()


def test_config_and_weights_are_enough(tmp_path: Path) -> None:
    """Kills: weights of another network than the average, a config without what the network is built from."""
    trained = exported(tmp_path / "out")
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    network = Network(told["model"], told["image"]).network
    network.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    inputs = trained.prior.seeded(0, range(3))
    with torch.no_grad():
        assert torch.equal(network(*inputs), trained.network(*inputs))
    assert told["interface"]["truncation"] == 0.6


def test_the_mixin_of_hugging_face_loads_it(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    trained = exported(tmp_path / "out")

    class Loaded(Network, hub.PyTorchModelHubMixin):
        def load_state_dict(self, state, strict=True, assign=False):
            return self.network.load_state_dict(state, strict=strict, assign=assign)

        def state_dict(self, *args, **kwargs):
            return self.network.state_dict(*args, **kwargs)

    loaded = Loaded.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), trained.network.state_dict().values(), strict=True))


def test_a_form_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    exported(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def broken(*_) -> None:
        raise ValueError("model.pt2 differs")

    monkeypatch.setitem(export.FORMS, "pt2", broken)
    with pytest.raises(ValueError, match="differs"):
        exported(tmp_path / "out", kinds=["pt2"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_card_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    """Kills: figures without intervals, a number that the ruler is blind for without a word, another data's licence."""
    exported(tmp_path / "out", evaluation=EVALUATION)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pytorch\npipeline_tag: unconditional-image-generation\n")
    assert "(`fid`) * | 12.34 | 11.5 to 13.5 |" in card
    for words in (
        "500 images against 300 of the test split",
        "`fid`: it does not see noise.",
        "few held-out images.",
        "CC BY 4.0",
        "Truncation 0.6",
    ):
        assert words in card
    for title in ("Intended use", "Data", "Training", "Use", "Figures", "What the figures cannot see", "Limits", "Marks"):
        assert f"\n## {title}\n" in card
    own = FACTS | {"data": {"source": "image_folder", "training_images": 9, "image_size": [8, 8]}}
    unknown = model_card.render(own, json.loads((tmp_path / "out" / "config.json").read_text())["interface"], None)
    assert "not known to this project" in unknown
    assert "Not measured." in unknown
    assert "Alarms" not in unknown
    told = json.loads((tmp_path / "out" / "config.json").read_text())["interface"]
    facts = own | {"parameters": {"generator": 12345}, "git_changed": ["a.py"]}
    whole = model_card.render(facts, told, None, alarms=["mode_collapse"], licence="CC0 1.0")
    for words in (
        "Licence of the data: CC0 1.0.",
        "Parameters: generator 12,345.",
        "Alarms of the training: mode_collapse.",
        "commit c (with changes in a.py)",
    ):
        assert words in whole
