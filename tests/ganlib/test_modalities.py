"""What every modality promises, and the second one from its source to a picture of what was learnt."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganlib import modalities
from ganlib.data.arrow import SPLITS, ArrowImages, read_manifest
from ganlib.data.decoders.numbers import Numbers
from ganlib.data.settings import DataConfig
from ganlib.data.soundness import BrokenImage
from ganlib.data.values import Survey
from ganlib.fields import Field, class_field
from ganlib.files import sha256_file
from ganlib.metrics import EXTRACTORS, interface
from ganlib.metrics.faults import FAULTS
from ganlib.metrics.kid import weighted_mmd
from ganlib.metrics.reference_store import Reference
from ganlib.modalities import MODALITIES
from ganlib.models import ImageSpec, build_generator
from ganlib.pictures import NOTICE
from ganlib.samples import Samples
from ganlib.sampling import Prior, generate
from ganlib.training.loop import Running, TrainingSpec, image_of, train
from pipeline import edit, preflight, recipe
from pipeline.identity import training_settings
from pipeline.params import ParamsError
from pipeline.stages.calibrate import calibrate
from pipeline.stages.evaluate import evaluate
from pipeline.stages.fetch import fetch
from pipeline.stages.prepare import prepare
from pipeline.stages.reference import reference
from pipeline.stages.sample import sample

ROOT = Path(__file__).resolve().parents[2]
NAMES = MODALITIES.names()


@pytest.mark.parametrize("name", NAMES)
def test_networks_see_the_stored_range_as_minus_one_to_one_and_back(name):
    """Kills a shift by half a level, a range that is not cut, and a dtype other than the one that is declared."""
    modality = modalities.of(name)
    low, high = modality.stored_range
    stored = np.array([low, (low + high) / 2, high]).astype(modality.dtype).reshape(3, 1, 1, 1)
    seen = modality.to_tensor(stored)
    assert seen.dtype == torch.float32
    expected = (stored.astype(np.float64) - low) * 2 / (high - low) - 1
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-7)
    back = modality.from_tensor(seen.to(torch.float64))
    assert back.dtype == np.dtype(modality.dtype)
    np.testing.assert_array_equal(back, stored)
    outside = modality.from_tensor(torch.tensor([-1.7, 1.2]).reshape(2, 1, 1, 1))
    np.testing.assert_array_equal(outside.ravel(), np.array([low, high]).astype(modality.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_a_preview_is_a_png_that_says_what_it_is_and_shows_what_differs(name):
    modality = modalities.of(name)
    values = [modality.from_tensor(torch.full((4, 1, 1, 2), at)) for at in (-0.5, 0.5)]
    pngs = [modality.preview(each, columns=2, description={"Seed": "7"}) for each in values]
    pictures = [Image.open(io.BytesIO(png)) for png in pngs]
    assert pictures[0].text == {"Notice": NOTICE, "Seed": "7"}  # type: ignore[attr-defined]
    assert not np.array_equal(*(np.asarray(picture) for picture in pictures))
    assert pngs[0] == modality.preview(values[0], columns=2, description={"Seed": "7"})


def test_a_point_is_drawn_where_it_lies():
    """x to the right, y up. Kills: axes that are swapped, y that points down."""
    point = np.array([0.9, 0.5], np.float32).reshape(1, 1, 1, 2)
    picture = np.asarray(Image.open(io.BytesIO(modalities.of("points").preview(point, columns=1, description={}))))
    rows, columns = np.nonzero(picture[:, :, 2] > picture[:, :, 0].astype(int) + 50)  # blue
    height, width = picture.shape[:2]
    assert 2 * columns.mean() / width - 1 == pytest.approx(0.9 * 15 / 16, abs=0.01)
    assert 1 - 2 * rows.mean() / height == pytest.approx(0.5 * 15 / 16, abs=0.01)


def test_numbers_are_mapped_to_the_range_networks_see():
    decoder = Numbers(shape=(2, 1, 2), value_range=(0.0, 4.0))
    survey = Survey()
    ((stored, size),) = decoder.decode(np.array([[[0.0, 1.0], [4.0, 9.0]]]), survey, name="x")
    assert (stored.dtype, size) == (np.float32, (1, 2))
    np.testing.assert_array_equal(stored, [[[-1.0, 1.0]], [[-0.5, 1.0]]])  # channels first; 9 is cut
    assert survey.kinds["float64"].outside == 1
    for raw, message in (
        (b"\x89PNG", "an encoded file, expected an array"),
        (np.zeros((2, 1, 2)), r"2 channels of 2 x 1, expected 2 of 1 x 2 \(data.channels, data.image_size\)"),
        (np.array([[[np.nan, 0.0], [0.0, 0.0]]]), "NaN"),
    ):
        with pytest.raises(BrokenImage, match=message):
            decoder.decode(raw, Survey(), name="x")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """params.yaml with recipes/points.yaml."""
    target = tmp_path_factory.mktemp("params") / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(ROOT / "recipes" / "points.yaml", target)
    return preflight.load(target)


@pytest.fixture(scope="module")
def prepared(chosen, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("points")
    fetch(chosen.data, root)
    prepare(chosen.data, root, processes=1)
    return root / "data" / "prepared"


def test_the_points_are_those_of_the_ring_as_they_were_drawn(prepared):
    """Against the definition: k-th centre at angle k pi / 4, distance 0.8, width 0.03; nothing is rounded to 256 levels."""
    manifest = read_manifest(prepared)
    names = manifest.class_names
    assert names is not None
    made = Field(name="points", kind="points", shape=(1, 1, 2), dtype="float32", value_range=(-1.0, 1.0))
    assert manifest.fields == (made, class_field("label", names))
    splits = [ArrowImages(prepared / f"{split}.arrow") for split in SPLITS]
    assert sum(map(len, splits)) == 50_000
    for split in splits:
        points, labels = split.slice(0, len(split)).reshape(-1, 2), split.labels
        assert labels is not None
        for k in range(8):
            mine = points[labels == k]
            centre = 0.8 * np.array([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)])
            np.testing.assert_allclose(mine.mean(0), centre, atol=5 * 0.03 / math.sqrt(len(mine)))
            np.testing.assert_allclose(mine.std(0), 0.03, rtol=5 / math.sqrt(2 * len(mine)))
        assert len(np.unique(points)) > 1.9 * len(points)


def test_a_gan_learns_points_and_shows_them(chosen, prepared, tmp_path):
    """Real rows reach the networks as they are stored; the grid of the training is a scatter plot. Kills /127.5 of points."""
    settings = chosen.train.model_copy(
        update={"total_images": 20 * chosen.train.batch_images, "grid_interval_images": 10 * chosen.train.batch_images, "select": None}
    )
    spec = TrainingSpec(
        data=str(prepared / "train.arrow"),
        held_out=str(prepared / "val.arrow"),
        folder=str(tmp_path),
        model=chosen.model,
        task=chosen.task,
        optim=chosen.optim,
        train=settings,
    )
    running = Running.start(spec)
    assert running.image.modality == "points"
    shard = running.batches.shards("phase", step=0, repeat=0, images_seen=0)[1]
    places = running.batches.order(chosen.train.shard_images, chosen.train.shard_images)
    table = ArrowImages(prepared / "train.arrow")
    np.testing.assert_array_equal(shard.real.numpy(), table.gather(places))
    assert table.labels is not None
    np.testing.assert_array_equal(shard.column("label").numpy(), table.labels[places])
    np.testing.assert_array_equal(shard.column("points").numpy(), shard.real.numpy())
    train(spec)
    (first, last) = sorted((tmp_path / "grids").glob("images-*.png"))
    with Image.open(last) as picture:
        assert picture.size == (512, 512)
    assert first.read_bytes() != last.read_bytes()


def test_points_have_features_and_the_faults_that_are_no_pictures(chosen, prepared):
    """The number itself as its feature; dropped modes are seen, and no point is put through JPEG. Kills a row that is cast to uint8 on its way."""
    root = prepared.parents[1]
    described = reference(chosen.reference, root=root)
    assert [(entry["name"], entry["depths"]) for entry in described["extractors"]] == [("numbers", {"last": 2})]
    features = Reference.read(root / "data" / "reference", data_digest=read_manifest(prepared).data_digest).features("test", "last")
    test = ArrowImages(prepared / "test.arrow")
    np.testing.assert_array_equal(features.numpy(), test.slice(0, len(test)).reshape(-1, 2))
    result = calibrate(chosen.evaluate, root=root)
    applying = {name for name, rungs in result.faults.items() if rungs.applies}
    assert applying == {name for name in result.faults if FAULTS.get(name).picks}
    assert "one_mode" in applying
    assert result.metrics["kid"].sees["one_mode"] is not None


def test_samples_of_points_are_measured_and_reported(chosen, prepared):
    """An untrained generator's points against the ring, by hand from their moments. Kills: rows that are read as levels, a page without its parts."""
    root = prepared.parents[1]
    reference(chosen.reference, root=root)
    spec = image_of(ArrowImages(prepared / "train.arrow"))
    network = build_generator(chosen.model, spec, seed=0)
    (root / "models").mkdir()
    save_file(network.state_dict(), root / "models" / "generator.safetensors")
    facts = {"family": "mlp", "model": chosen.model.model_dump(mode="json"), "image": spec.model_dump(mode="json"), "git_commit": "c"}
    facts |= {"data_digest": read_manifest(prepared).data_digest, "sha256": sha256_file(root / "models" / "generator.safetensors")}
    facts["products"] = [{"name": "sample", "network": "generator", "part": "whole", "feed": {"kind": "latents"}, "has_truth": False}]
    (root / "models" / "generator.json").write_text(json.dumps(facts))
    sample(chosen.sample.model_copy(update={"num_images": 2_000}), root)
    found = evaluate(chosen.evaluate.model_copy(update={"prdc_images": 500, "bootstrap": 4}), root=root)
    made = Samples(root / "samples").gather(np.arange(2_000)).reshape(-1, 2).astype(np.float64)
    test = ArrowImages(prepared / "test.arrow")
    real = test.slice(0, len(test)).reshape(-1, 2).astype(np.float64)
    between = np.square(made.mean(0) - real.mean(0)).sum()
    a, b = np.cov(made.T), np.cov(real.T)
    expected = between + np.trace(a) + np.trace(b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    assert found["fid"] == pytest.approx(expected, rel=1e-3)
    page = (root / "reports" / "report.html").read_text()
    assert "No interpolation" not in page
    assert page.count("data:image/png") >= 4  # both sides, the grid, the features


def test_what_is_made_is_told_from_other_points_as_it_was_made(chosen, prepared):
    """A generator's points are its outputs, not the nearest of 256 levels; in features the training's own points are near, the origin is far."""
    spec = ImageSpec(channels=1, size=(1, 2), modality="points")
    network = build_generator(chosen.model, spec, seed=0).eval()
    inputs = Prior.of(chosen.model, spec).seeded(0, range(50))
    with torch.no_grad():
        np.testing.assert_array_equal(generate(network, inputs, batch_images=50, modality="points"), network(*inputs).numpy())
    train_rows, test_rows = (ArrowImages(prepared / f"{split}.arrow").slice(0, 500) for split in ("train", "test"))
    extractor = EXTRACTORS.get("numbers").fit(interface.ArrayImages(train_rows), None, seed=0, epochs=0.0)
    real, near, far = (
        interface.extract(extractor, interface.ArrayImages(rows))["last"].double()
        for rows in (test_rows, train_rows, np.zeros_like(test_rows))
    )
    once = torch.ones(1, 500, dtype=torch.float64)
    assert abs(float(weighted_mmd(real, near, once))) < 0.01
    assert float(weighted_mmd(real, far, once)) > 0.1


def test_the_modality_is_part_of_a_trainings_name_and_images_keep_theirs(chosen):
    """Kills a run key that does not know by which code networks see their data, and one that changed for images."""
    assert training_settings(chosen)["data"] == {"modalities": ["points"]}
    assert "data" not in training_settings(preflight.load(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "point"}, r"data.modality='point' is not a known modality \(did you mean 'points'\?\); legal: image, points"),
        ({"modality": "points"}, r"data.modality=points needs the range of its numbers.*set it to \[low, high\]"),
    ],
)
def test_a_wrong_modality_is_refused_before_any_work(changes, message):
    values = json.loads(json.dumps(edit.plain(ROOT / "params.yaml")))
    values["data"] |= changes
    with pytest.raises(ParamsError, match=message):
        preflight.parse(values)


def test_images_are_the_modality_where_none_is_named():
    assert DataConfig(source="digits").modality == "image"
