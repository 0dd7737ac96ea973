"""From a trained bundle to samples and a registered model, without Ray: generators that are told the class, and truncated ones."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from ganlib import sampling
from ganlib.data.arrow import ArrowImages, ArrowWriter, write_manifest
from ganlib.files import sha256_file
from ganlib.models import MODELS, ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.sample_settings import SampleConfig
from ganlib.samples import Samples
from ganlib.sampling import Prior
from ganlib.storage import open_storage
from ganlib.training.loop import TrainingSpec, train
from ganlib.training.state import BundleStore
from pipeline import artifacts, forms, generator, preflight
from pipeline.schema import Params
from pipeline.selection import Selection
from pipeline.stages.register import register
from pipeline.stages.sample import sample
from pipeline.stages.train import train as train_stage
from pipeline.tracking import logged_models, outbox, registration
from pipeline.tracking import store as stores

ROOT = Path(__file__).resolve().parents[2]
PREPARATION = {"source": "digits", "resize": "lanczos", "crop": "center", "image_size": [8, 8], "channels": 1}
NAMES = ["left", "top", "all"]
SAMPLE = {"num_images": 60, "batch_images": 20, "grid_rows": 2, "grid_columns": 5, "interpolation_rows": 3, "interpolation_steps": 4}
HAS_ONNX = all(importlib.util.find_spec(name) for name in forms.OF_ONNX)
OUTCOME = registration.Registration(model="m", version=1, is_new=True, aliases=[], reason="", run_id="r")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's and torch.export's own


def prepare(root: Path, *, names: list[str] | None) -> Path:
    folder = root / "data" / "prepared"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 60, (90, 1, 8, 8), dtype=np.uint8)
    images[:30, :, :, :4] += 150
    images[30:60, :, :4] += 150
    images[60:] += 150
    for split in ("train", "val", "test"):
        with ArrowWriter(folder / f"{split}.arrow", shape=(1, 8, 8), class_names=names) as writer:
            writer.append(images, np.repeat(np.arange(3), 30) if names else None)
    write_manifest(
        folder,
        class_names=names,
        class_counts=dict.fromkeys(("train", "val", "test"), [30] * 3 if names else None),
        preparation=PREPARATION,
    )
    return folder / "train.arrow"


def settings(**changes) -> Params:
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["data"] |= {"source": "digits", "image_size": [8, 8]}
    values["model"] |= {"latent_dim": 8, "generator": {"width": 8}, "discriminator": {"width": 8}}
    values["train"] |= {"total_images": 320, "batch_images": 32, "history_interval_images": 160, "grid_interval_images": 160}
    values["sample"] |= SAMPLE
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return preflight.parse(values)


def trained(config: Params, root: Path) -> None:
    data = prepare(root, names=NAMES)
    sections = {name: getattr(config, name) for name in ("model", "task", "optim", "train")}
    spec = TrainingSpec(data=str(data), folder=str(root / "state"), **sections)
    train(spec)
    storage = open_storage(spec.folder)
    bundle, _ = BundleStore(storage, keep=1).newest()
    facts = outbox.TrainingFacts(
        run_key="k", params={}, tags={"git.commit": "c", "params.digest": "p"}, data_digest="d" * 64, data_source="digits"
    )
    choice = Selection(facts={"by": None, "why": "no reference"}).choose(storage, bundle)
    artifacts.write(bundle, choice, spec, ArrowImages(data), storage=storage, root=root, facts=facts)
    sample(config.sample, root)


def read_samples(root: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """[N, C, H, W] uint8 and [N] int64."""
    stored = Samples(root / "samples")
    return stored.gather(np.arange(len(stored))), stored.labels


def tiles(path: Path, *, columns: int) -> np.ndarray:
    """[rows, columns, 8, 8] of a grid of 8x8 images, which are shown 8 times larger and 4 apart; a line of headings and a margin are cut off."""
    pixels = np.asarray(Image.open(path))
    rows = (pixels.shape[0] - 4) // 68
    top = pixels.shape[0] - 4 - 68 * rows
    pixels = pixels[top - 2 :, 2:-2][: 68 * rows + 4] if top else pixels
    return np.stack([[pixels[4 + 68 * r :, 4 + 68 * c :][:64:8, :64:8] for c in range(columns)] for r in range(rows)])


LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ganlib", "pipeline"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/gan-digits@champion")
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
wrong = np.load(sys.argv[2])
wrong[0, -1] = 3
try:
    model.predict(wrong)
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("conditional", [False, True])
def test_generator_json_and_the_weights_are_enough(conditional, tmp_path):
    """Someone has the two files and ganlib, no params.yaml and no data; kills: a description that lacks what the drawing needs."""
    config = settings(model__conditional=conditional, model__latent_distribution="uniform")
    trained(config, tmp_path)
    facts = json.loads((tmp_path / "models" / "generator.json").read_text())
    weights = load_file(tmp_path / "models" / "generator.safetensors")
    # from here on, these two alone
    model, image = ModelConfig.model_validate(facts["model"]), ImageSpec.model_validate(facts["image"])
    network = build_generator(model, image, seed=0)
    network.load_state_dict(weights)
    network.eval()
    inputs = Prior.of(model, image).seeded(config.sample.seed, range(60))
    drawn = sampling.generate(network, inputs, batch_images=20)
    images, labels = read_samples(tmp_path)
    assert np.array_equal(drawn, images)
    # and what it says in words is what these did
    z, output = facts["input"]["z"], facts["output"]
    assert z == {"shape": ["N", 8], "dtype": "float32", "distribution": "uniform", "drawn": "independently from U(-1, 1)"}
    assert (inputs.z.shape[1], str(inputs.z.dtype).removeprefix("torch.")) == (z["shape"][1], z["dtype"])
    assert inputs.z.abs().max() <= 1
    with torch.no_grad():
        raw = network(*inputs)
    assert list(raw.shape[1:]) == output["shape"][1:] == [1, 8, 8]
    assert raw.min() >= output["range"][0]
    assert raw.max() <= output["range"][1]
    again = np.clip(np.rint((raw.numpy() + 1) * 127.5), 0, 255)  # as to_uint8 says
    assert np.abs(again - images).max() <= 1  # another batch size
    assert facts["data"] == {**PREPARATION, "class_names": NAMES, "training_images": 90}
    assert facts["precision"] == {"weights": "float32", "training": config.train.precision, "samples": "float32"}
    if conditional:
        assert (facts["input"]["labels"]["to"], facts["class_names"]) == (2, NAMES)
        assert labels.max() == 2
    else:
        assert facts["input"]["labels"] is None
        assert "class_names" not in facts
        assert "Classes" not in Image.open(tmp_path / "samples" / "grid.png").info


@pytest.mark.parametrize(("family", "truncation"), [("dcgan", 1.0), ("stylegan2", 0.5)])
def test_classes_reach_samples_pictures_and_the_registered_model(family, truncation, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = settings(
        model__name=family, model__conditional=True, sample__truncation=truncation, marks__strength=1.5, register__onnx=HAS_ONNX
    )
    trained(config, tmp_path)
    made = generator.load(tmp_path / "models")
    assert made.class_names == NAMES
    # samples
    images, labels = read_samples(tmp_path)
    inputs = made.prior.seeded(config.sample.seed, range(60))
    assert labels.tolist() == inputs.labels.tolist()
    assert set(labels.tolist()) == {0, 1, 2}
    forward = {"truncation": truncation} if truncation != 1.0 else {}
    assert np.array_equal(images, sampling.generate(made.network, inputs, batch_images=20, **forward))
    # pictures
    for name, place in (("grid", "column"), ("interpolation", "row")):
        assert Image.open(tmp_path / "samples" / f"{name}.png").info["Classes"] == f"one class a {place}, of 0 left, 1 top, 2 all"
    by_column = sampling.Inputs(made.prior.seeded(config.sample.seed, range(10)).z, torch.tensor([0, 1, 2, 0, 1] * 2))
    expected = sampling.generate(made.network, by_column, batch_images=20, **forward)
    assert np.array_equal(tiles(tmp_path / "samples" / "grid.png", columns=5).reshape(10, 1, 8, 8), expected)
    ends = sampling.Inputs(made.prior.seeded(config.sample.seed, range(6)).z, torch.tensor([0, 0, 1, 1, 2, 2]))
    expected = sampling.generate(made.network, ends, batch_images=20, **forward).reshape(3, 2, 8, 8)
    walked = tiles(tmp_path / "samples" / "interpolation.png", columns=4)[:, [0, -1]]
    assert np.abs(walked.astype(int) - expected.astype(int)).max() <= 2
    # the registered model
    served = made.served(truncation)
    assert "a last column with the class, 0 to 2" in served.words
    array = served.array(made.prior.seeded(5, range(7)))
    with torch.no_grad():
        expected = made.network(*made.prior.seeded(5, range(7)), **forward)
        torch.testing.assert_close(served(array), expected)
    protocol = {"split": "test", "generator_sha256": made.facts["sha256"], **forward}
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.0, "protocol": protocol}))
    measuring = {"data": config.data, "sampled": config.sample, "evaluated": config.evaluate, "marks": config.marks}
    if truncation != 1.0:  # what is registered is what was measured
        told = {}
        monkeypatch.setattr(registration, "register_generator", lambda config, tracking, **facts: told.update(facts) or OUTCOME)
        register(config.register_, config.tracking, tmp_path, **measuring)
        assert (told["tags"]["truncation"], told["generator"].options, told["evaluation"]["protocol"]) == ("0.5", forward, protocol)
        assert (told["sha256"], told["truncation"]) == (made.facts["sha256"], truncation)
        assert logged_models.content(told["sha256"], truncation) != made.facts["sha256"]
        return
    assert register(config.register_, config.tracking, tmp_path, **measuring).aliases == ["challenger", "champion"]
    version = stores.open_store(config.tracking, tmp_path).client.get_model_version("gan-digits", "1")
    assert version.description.startswith(f"{served.words}\n\nWhen it was registered: there is no champion to compare with; fid 3")
    assert version.tags["content.sha256"] == made.facts["sha256"]
    assert np.allclose(elsewhere(tmp_path, array.numpy()), expected.numpy(), atol=1e-5)
    # what people read, and the further form, lie beside it
    assert beside(tmp_path, "README.md").read_text() == (tmp_path / "reports" / "model_card.md").read_text()
    if HAS_ONNX:
        session = pytest.importorskip("onnxruntime").InferenceSession(beside(tmp_path, "model.onnx"))
        assert np.allclose(session.run(None, {"x": array.numpy()})[0], expected.numpy(), atol=1e-4)
        assert beside(tmp_path, "seeded.py").read_bytes() == forms.SEEDED.read_bytes()
    # the mark is as strong as this registration says, and stays so: these weights are registered once
    assert (strength(tmp_path), version.tags["marks.strength"]) == (1.5, "1.5")
    louder = config.marks.model_copy(update={"strength": 3.0})
    again = register(config.register_, config.tracking, tmp_path, **measuring | {"marks": louder})
    assert (again.version, again.strength, strength(tmp_path)) == (1, 1.5, 1.5)
    # another generator, measured alike, competes
    weights = tmp_path / "models" / "generator.safetensors"
    save_file({name: value * 0.99 if value.is_floating_point() else value for name, value in load_file(weights).items()}, weights)
    other = sha256_file(weights)
    (tmp_path / "models" / "generator.json").write_text(json.dumps(made.facts | {"sha256": other}))
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 2.0, "protocol": protocol | {"generator_sha256": other}}))
    outcome = register(config.register_.model_copy(update={"spread": 0.05}), config.tracking, tmp_path, **measuring)
    assert (outcome.version, outcome.aliases) == (2, ["challenger", "champion"])
    assert outcome.reason.startswith("fid 2 against 3 of version 1: better by 1")


def beside(root: Path, file: str) -> Path:
    """A file of the first version, as others get it."""
    store = stores.open_store(settings().tracking, root)
    return Path(store.mlflow.artifacts.download_artifacts(f"models:/gan-digits/1/{file}", dst_path=str(root / "got")))


def strength(root: Path) -> float:
    """What MLflow's server reads."""
    return json.loads(beside(root, "interface.json").read_text())["strength"]


def elsewhere(root: Path, array: np.ndarray) -> np.ndarray:
    """Images of the champion in a process that cannot import this project; there, a class it does not have is refused."""
    np.save(root / "in.npy", array)
    command = [sys.executable, "-W", "ignore", "-c", LOAD, f"sqlite:///{root}/mlflow.db", str(root / "in.npy"), str(root / "out.npy")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the last column is no class from 0 to 2" in done.stdout
    return np.load(root / "out.npy")


@pytest.mark.parametrize("name", [entry.name for entry in MODELS if "generator" in entry.value.roles])
def test_every_generator_can_be_exported_with_a_batch_of_any_size(name):
    model = ModelConfig(name=name, latent_dim=8, conditional=True, generator={"width": 8})
    image = ImageSpec(channels=1, size=(8, 8), class_counts=(1, 1, 1))
    prior = Prior.of(model, image)
    network = generator.Served(build_generator(model, image, seed=0).eval(), feed=prior, image=image, options={}, class_names=NAMES)
    arrays = [network.array(prior.seeded(0, range(count))) for count in (4, 3)]
    exported = torch.export.export(network, (arrays[0],), dynamic_shapes=[{0: torch.export.Dim.AUTO}]).module()
    torch.testing.assert_close(exported(arrays[1]), network(arrays[1]))


def test_an_unconditional_generator_has_no_labels_and_no_truncation(tmp_path):
    config = settings(train__ema_halflife_images={"schedule": "linear", "from": 0, "to": 5000})
    trained(config, tmp_path)
    assert (
        "half-life 0 to 5,000 images" in json.loads((tmp_path / "models" / "generator.json").read_text())["weights"]
    )  # a schedule is told
    made = generator.load(tmp_path / "models")
    assert made.class_names == []
    assert pq.read_table(tmp_path / "samples" / "samples.parquet")["label"].null_count == 60
    picture = (tmp_path / "samples" / "grid.png").read_bytes()
    assert "Classes" not in Image.open(io.BytesIO(picture)).info
    images, _ = read_samples(tmp_path)
    assert np.array_equal(tiles(tmp_path / "samples" / "grid.png", columns=5).reshape(10, 1, 8, 8), images[:10])
    with pytest.raises(ValueError, match=r"model.name='dcgan' has no styles to truncate; .*: .*stylegan2"):
        sample(SampleConfig(**SAMPLE, truncation=0.7), tmp_path)
    assert (tmp_path / "samples" / "grid.png").read_bytes() == picture


def test_a_condition_without_labels_is_refused_before_anything_starts(tmp_path):
    prepare(tmp_path, names=None)
    with pytest.raises(ValueError, match=r"model.conditional=true needs labelled data, and this data has no labels"):
        train_stage(settings(model__conditional=True), tmp_path)
    assert not (tmp_path / "state").exists()
