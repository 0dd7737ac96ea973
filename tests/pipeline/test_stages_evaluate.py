"""The reference and evaluate stages on a small data set, from Arrow files to the report."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganlib import samples
from ganlib.data.arrow import ArrowImages, ArrowWriter, read_manifest, write_manifest
from ganlib.files import atomic_folder, sha256_file
from ganlib.metrics import EXTRACTORS, METRICS, interface, measure, needs, trunk
from ganlib.metrics.reference_store import SUMMARY_FILE, Reference
from ganlib.metrics.settings import EvaluateConfig, ReferenceConfig
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.registry import Entry
from pipeline import path_length
from pipeline.report import page as report
from pipeline.stages.calibrate import calibrate
from pipeline.stages.evaluate import evaluate
from pipeline.stages.reference import reference

SHAPE = (1, 10, 8)
CONFIG = EvaluateConfig(split="test", seed=0, prdc_images=50, neighbours=3, bootstrap=4, null_draws=3)


def draw(n: int, seed: int, *, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """[n, *SHAPE] uint8 with a bright band whose place is the class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    images = rng.integers(0, 80, (n, *SHAPE)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :5, 2 * label : 2 * label + 2] += 120
    return images, labels


def write_prepared(root: Path, *, val: int = 30, is_labelled: bool = True, channels: int = 1) -> None:
    folder = root / "data" / "prepared"
    folder.mkdir(parents=True)
    names = ["left", "middle", "<right>"] if is_labelled else None
    for seed, (split, n) in enumerate((("train", 120), ("val", val), ("test", 60))):
        images, labels = draw(n, seed)
        with ArrowWriter(folder / f"{split}.arrow", shape=(channels, *SHAPE[1:]), class_names=names) as writer:
            writer.append(images.repeat(channels, axis=1), labels if is_labelled else None)
    write_manifest(folder, class_names=names, class_counts={s: [1, 1, 1] if is_labelled else None for s in ("train", "val", "test")})


def write_samples(
    root: Path,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    format: samples.Format = "parquet",
    drawn: tuple[int, ...] | None = None,
) -> None:
    (root / "models").mkdir(exist_ok=True)
    model, image = ModelConfig(name="mlp", latent_dim=4), ImageSpec(channels=images.shape[1], size=images.shape[2:])
    save_file(build_generator(model, image, seed=0).state_dict(), root / "models" / "generator.safetensors")
    facts = {
        "family": "mlp",
        "model": model.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        "run_key": "k",
        "data_digest": read_manifest(root / "data" / "prepared").data_digest,
        "sha256": sha256_file(root / "models" / "generator.safetensors"),
        "parameters": {"generator": 12345},
    }
    (root / "models" / "generator.json").write_text(json.dumps(facts))
    said = samples.Facts(
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        seed=0,
        generator_sha256=facts["sha256"],
        class_names=() if labels is None else ("left", "middle", "<right>"),
        drawn_classes=drawn,
    )
    with atomic_folder(root / "samples") as folder, samples.writing(folder, said, format) as writer:
        writer.add(images, labels)


@pytest.fixture(autouse=True)
def _small_and_single_threaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trunk, "MIN_STEPS", 20)
    monkeypatch.setattr(path_length, "PAIRS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with prepared data, a reference and honest samples; copied by the tests that change it."""
    root = tmp_path_factory.mktemp("project")
    write_prepared(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk, "MIN_STEPS", 20)
        reference(ReferenceConfig(extractor="classifier", epochs=0.1), root=root)
    write_samples(root, *draw(80, 9))
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "project"))


def test_default_metrics_exist() -> None:
    assert set(EvaluateConfig().metrics) <= set(METRICS.names())


def test_writes_numbers_protocol_plots_and_report(root: Path) -> None:
    result = evaluate(CONFIG, root=root)
    written = json.loads((root / "reports" / "evaluation.json").read_text())
    assert written == result
    assert list(written)[:4] == ["fid", "fid_low", "fid_high", "kid"]
    assert list(written)[-4:] == ["null", "baseline", "resampled", "protocol"]
    assert len(written["resampled"]["fid"]) == len(written["resampled"]["coverage"]) == CONFIG.bootstrap
    for key, value in needs.values({name: METRICS.get(name) for name in CONFIG.metrics}).items():
        if not value.is_conditional and key in written and not key.startswith("path_length"):  # beside every number what real images score
            null = written["null"][key]
            assert null["low"] <= null["mean"] <= null["high"]
            assert (null["draws"], null["images"]) == (1 if key == "two_sample_accuracy" else 3, 30)
    assert {"fid", "swd", "spectrum_distance", "two_sample_accuracy", "membership_black_box"} <= written["null"].keys()
    assert written["null"].keys() & {"label_agreement", "prdc_images", "fid_low"} == set()
    assert not [key for key in written if key.startswith("discriminator")], "there is none here"
    assert written["path_length_z"] > 0
    assert not [key for key in written["baseline"] | written["null"] if key.startswith("path_length")], "of a generator, not of images"
    protocol = written["protocol"]
    assert (protocol["n_fake"], protocol["n_real"], protocol["n_train"], protocol["split"]) == (80, 60, 120, "test")
    assert re.fullmatch("[0-9a-f]{64}", protocol["extractor_sha256"])
    assert written["baseline"]["n"] == 30
    assert written["label_agreement"] > 0.8
    for name in ("real_vs_fake", "nearest_train", "features", "classes"):
        with Image.open(root / "reports" / "plots" / f"{name}.png") as image:
            assert min(image.size) > 100
    page = (root / "reports" / "report.html").read_text()
    taken = (
        "Generated images, not selected",
        "Held-out real images, not selected",
        "Generated images of middle",
        "Least like any real image",
    )
    assert all(f'alt="{name}' in page for name in taken)
    assert page.count("generated above its nearest training image") == 20
    assert "No training curves" in page
    assert "samples/grid.png was not found" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=['\"]?http", page)
    assert "12,345" in page


def test_an_evaluation_says_what_its_ruler_can_see(root: Path) -> None:
    """Under `ruler`, and not in the protocol, by which versions are compared. Kills: an untrusted value that the evaluation does not have."""
    uncalibrated = evaluate(CONFIG, root=root)
    assert uncalibrated["ruler"]["warnings"] == ["not calibrated: run `dvc repro calibrate`"]
    ladder = root / "reports" / "ladder.csv"
    assert ladder.read_text() == f"fault,strength,unit,fid\nthis generator,,,{uncalibrated['fid']}\n"
    evaluate(CONFIG.model_copy(update={"metrics": ["kid"]}), root=root)
    assert ladder.read_text() == "fault,strength,unit,fid\n"  # DVC draws nothing of it, and warns of nothing
    calibrate(CONFIG, root=root)  # 60 held-out images are too few
    too_few = evaluate(CONFIG, root=root)["ruler"]
    assert (too_few["n"], too_few["untrusted"]) == (0, {})
    assert "60 held-out images" in too_few["warnings"][0]
    place = root / "data" / "calibration" / "calibration.json"
    verdict = {"sees": {}, "rises": {}, "is_trusted": False, "why": "is blind", "better": "lower", "ideal": None}
    null = {"mean": 1.0, "low": 0.0, "high": 2.0, "draws": 10}
    found = json.loads(place.read_text()) | {"n": 60, "metrics": {"fid": verdict, "other": verdict}, "null": {"fid": null, "other": null}}
    place.write_text(json.dumps(found))
    result = evaluate(CONFIG, root=root)
    assert result["ruler"]["untrusted"] == {"fid": "is blind"}
    assert "ruler" not in result["protocol"]
    place.write_text(json.dumps(found | {"data_digest": "0" * 64}))
    with pytest.raises(ValueError, match=r"made with data_digest 000000000000.*dvc repro calibrate"):
        evaluate(CONFIG, root=root)


def test_same_inputs_same_bytes(root: Path) -> None:
    files = ["evaluation.json", "report.html", "plots/features.png", "plots/nearest_train.png"]
    runs = []
    for _ in range(2):
        evaluate(CONFIG, root=root)
        runs.append([(root / "reports" / name).read_bytes() for name in files])
    assert runs[0] == runs[1]


def test_copies_and_dropped_classes_show(root: Path) -> None:
    honest = evaluate(CONFIG, root=root)
    train, labels = draw(120, 0)  # what write_prepared put into the train split
    write_samples(root, train[labels == 0].repeat(2, axis=0))
    copied = evaluate(CONFIG, root=root)
    assert copied["memorized_share"] == 1.0
    assert copied["memorized_share"] > honest["memorized_share"]
    assert copied["fid"] > 2 * honest["fid"]
    assert copied["class_coverage"] < 0.7
    assert copied["class_kl"] > honest["class_kl"]


def test_unlabelled_data_with_no_val_split(tmp_path: Path) -> None:
    write_prepared(tmp_path, val=0, is_labelled=False)
    with pytest.raises(ValueError, match=r"reference\.extractor=rotation"):
        reference(ReferenceConfig(extractor="classifier", epochs=0.1), root=tmp_path)
    assert not (tmp_path / "data" / "reference").exists()
    reference(ReferenceConfig(epochs=0.1), root=tmp_path)  # auto: what params.yaml has for everybody
    write_samples(tmp_path, draw(40, 9)[0])
    result = evaluate(CONFIG, root=tmp_path)  # class_coverage is left out, and nothing else
    assert result["protocol"]["extractor"] == "rotation"
    assert {"fid", "kid", "precision", "memorized_share"} <= set(result)
    assert "class_coverage" not in result
    assert result["baseline"] == {}
    assert not (tmp_path / "reports" / "plots" / "classes.png").exists()
    reference(ReferenceConfig(extractor="rotation", epochs=0.1), root=tmp_path)  # asked for by name: then nothing is left out
    with pytest.raises(ValueError, match="class_coverage needs an extractor that knows the classes"):
        evaluate(CONFIG, root=tmp_path)
    with pytest.raises(ValueError, match=r"the val split has fewer than 2 images; set data\.val_fraction"):
        evaluate(CONFIG.model_copy(update={"split": "val"}), root=tmp_path)


def test_paths_are_seen_by_the_first_extractor_that_sees_small_steps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills floats for an extractor that rounds them away, and numbers that are said to be of another one than they are."""
    config = CONFIG.model_copy(update={"metrics": ["fid", "path_length"]})
    reference(ReferenceConfig(extractor=["pixels", "rotation"], epochs=0.1), root=root)
    of_pixels = evaluate(config, root=root)
    assert of_pixels["protocol"]["read_from"]["pixels/last"] == ["fid", "path_length_z"]
    monkeypatch.setattr(EXTRACTORS.get("pixels"), "takes_float", False)
    of_rotation = evaluate(config, root=root)
    assert of_rotation["protocol"]["read_from"] == {
        "pixels/last": ["fid"],
        "rotation/middle": ["path_length_z"],
        "rotation/last": ["fid@rotation"],
    }
    assert of_rotation["path_length_z"] != of_pixels["path_length_z"]
    monkeypatch.setattr(EXTRACTORS.get("rotation"), "takes_float", False)
    assert not [key for key in evaluate(config, root=root) if key.startswith("path_length")]


def test_several_extractors_in_one_protocol(root: Path, tmp_path: Path) -> None:
    """Each gives the numbers that it gives alone: the first under their own names, the second as name@extractor; classes are asked of who knows them.

    Kills: the second's features compared by the first's metrics, a key that two of them write, class_coverage of an extractor without classes.
    """
    alone = {"classifier": evaluate(CONFIG, root=root)}
    config = CONFIG.model_copy(update={"metrics": [name for name in CONFIG.metrics if name != "class_coverage"]})
    reference(ReferenceConfig(extractor="rotation", epochs=0.1), root=root)
    alone["rotation"] = evaluate(config, root=root)
    reference(ReferenceConfig(extractor=["rotation", "classifier"], epochs=0.1), root=root)
    both = evaluate(CONFIG, root=root)
    assert both["protocol"]["extractor"] == "rotation"
    assert [entry["label"] for entry in both["protocol"]["extractors"]] == ["rotation", "classifier"]
    assert both["protocol"]["extractors"][1]["sha256"] == alone["classifier"]["protocol"]["extractor_sha256"]
    numbers = {key: value for key, value in both.items() if isinstance(value, float)}
    declared = [needs.of(METRICS.get(name)) for name in CONFIG.metrics]
    once = {key for need in declared if need.is_measured_once for key in (*(value.key for value in need.gives), *need.also_gives)}
    expected = {key: value for key, value in alone["rotation"].items() if isinstance(value, float)}
    for key, value in alone["classifier"].items():
        end = next((end for end in ("_low", "_high") if key.endswith(end)), "")
        if isinstance(value, float) and not key.startswith("path_length"):  # of the first extractor that sees small steps
            expected[key if key.removesuffix(end) in once else f"{key.removesuffix(end)}@classifier{end}"] = value
    assert numbers == expected
    for key in (
        "fid",
        "fid@classifier",
        "precision_low",
        "class_coverage",
    ):  # a protocol is of one number: what is beside it does not matter
        plain = key.partition("@")[0]
        name = "classifier" if key.endswith(("@classifier", "class_coverage")) else "rotation"
        assert measure.compared(key, both) == measure.compared(plain, alone[name])
    assert both["baseline"]["fid@classifier"] == alone["classifier"]["baseline"]["fid"]
    assert (root / "reports" / "plots" / "classes.png").exists()


def test_rgb_is_compared_in_imagenets_features_with_the_classifiers_beside_them(tmp_path: Path) -> None:
    """What params.yaml has for everybody. Kills: class_coverage lost with a main extractor that knows no classes."""
    write_prepared(tmp_path, val=0, channels=3)
    told = reference(ReferenceConfig(epochs=0.1), root=tmp_path)
    assert [entry["label"] for entry in told["extractors"]] == ["efficientnet_lite0", "classifier"]
    images, labels = draw(40, 9)
    write_samples(tmp_path, images.repeat(3, axis=1), labels)
    result = evaluate(CONFIG, root=tmp_path)
    assert result["protocol"]["extractor"] == "efficientnet_lite0"
    assert result["protocol"]["extractor_accuracy"] is None
    assert {"fid", "fid@classifier", "precision", "precision@classifier_high", "class_coverage", "label_agreement"} <= set(result)
    assert "class_coverage@classifier" not in result
    read = ["precision", "recall", "density", "coverage", "prdc_images", "path_length_z"]
    assert result["protocol"]["read_from"]["efficientnet_lite0/middle"] == read
    (tmp_path / "data" / "extractors").mkdir()
    with pytest.raises(ValueError, match="there is no file"):
        reference(ReferenceConfig(extractor=["pixels", "torchscript:data/extractors/none.pt"]), root=tmp_path)
    assert (tmp_path / "data" / "reference" / SUMMARY_FILE).exists()  # the one before is whole


def test_a_metric_reads_the_depth_that_it_declares(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every set: the images compared, the fakes and the baseline. Kills a depth that is looked up for one side only."""
    seen: list[interface.Comparison] = []

    @needs.declares(needs.Needs(depth="middle"))
    def look(data: interface.Comparison, config: EvaluateConfig) -> dict[str, float]:
        seen.append(data)
        return {"dimension": float(data.real.shape[1])}

    monkeypatch.setitem(METRICS._entries, "look", Entry(name="look", value=look, summary="", paper=""))
    result = evaluate(CONFIG.model_copy(update={"metrics": ["look", "fid"]}), root=root)
    stored = Reference.read(root / "data" / "reference", data_digest=read_manifest(root / "data" / "prepared").data_digest)
    fake = interface.extract(stored.extractor, samples.Samples(root / "samples"))["middle"]
    assert len(seen) == 2 + CONFIG.null_draws
    for data, fakes in zip((seen[0], seen[-1]), (fake, stored.features("val", "middle")), strict=True):
        assert torch.equal(data.real, stored.features("test", "middle"))
        assert torch.equal(data.train, stored.features("train", "middle"))
        assert torch.equal(data.fake, fakes)
    assert {place: keys for place, keys in result["protocol"]["read_from"].items() if "dimension" in keys} == {
        "classifier/middle": ["dimension"]
    }


def test_a_reference_of_an_older_version_is_refused(root: Path) -> None:
    path = root / "data" / "reference" / SUMMARY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ValueError, match=r"has format 2, expected 3; run `dvc repro reference`"):
        evaluate(CONFIG, root=root)


def test_inputs_that_do_not_belong_together(root: Path) -> None:
    facts = root / "models" / "generator.json"
    before = json.loads(facts.read_text())
    for key in ("data_digest", "sha256"):
        facts.write_text(json.dumps(before | {key: "0" * 64}))
        with pytest.raises(ValueError, match=rf"has {key} 000000000000.*dvc repro train"):
            evaluate(CONFIG, root=root)
    facts.write_text(json.dumps(before))
    manifest = root / "data" / "prepared" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data_digest": "f" * 64}))
    with pytest.raises(ValueError, match=r"was made with data_digest.*dvc repro reference"):
        evaluate(CONFIG, root=root)


def test_unknown_metric_names_the_key(root: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluate\.metrics='fidd' is not a known metric \(did you mean 'fid'"):
        evaluate(CONFIG.model_copy(update={"metrics": ["fidd"]}), root=root)


@pytest.mark.parametrize("format", get_args(samples.Format))
def test_numbers_are_the_same_from_every_format_and_from_memory(root: Path, format: samples.Format) -> None:
    """Features bit for bit, in two batches and with the last one filled up. Kills a reader that is one image off, and a lossy encoding."""
    images, labels = draw(interface.EXTRACT_BATCH_IMAGES + 30, 4)
    write_samples(root, images, labels, format=format)
    stored = samples.Samples(root / "samples")
    assert stored.labels is not None
    assert np.array_equal(stored.labels, labels)
    extractor = Reference.read(root / "data" / "reference", data_digest=read_manifest(root / "data" / "prepared").data_digest).extractor
    found, expected = (interface.extract(extractor, pictures) for pictures in (stored, interface.ArrayImages(images)))
    assert all(torch.equal(found[depth], expected[depth]) for depth in extractor.depths)
    backwards = np.arange(len(images))[::-37]
    assert np.array_equal(stored.gather(backwards), images[backwards])


def test_samples_of_some_classes_are_compared_with_real_images_of_these(root: Path) -> None:
    """Kills the mutant that compares them with all classes: three times the distance, and a coverage of one third."""
    images, labels = draw(240, 9)
    chosen = labels == 2
    write_samples(root, images[chosen], labels[chosen])
    misled = evaluate(CONFIG, root=root)
    write_samples(root, images[chosen], labels[chosen], drawn=(2,))
    result = evaluate(CONFIG, root=root)
    real = ArrowImages(root / "data" / "prepared" / "test.arrow").labels
    assert real is not None
    assert result["protocol"]["n_real"] == (real == 2).sum()
    assert result["protocol"]["classes"] == {"<right>": chosen.sum()}
    assert "classes" not in misled["protocol"]
    assert result["fid"] < misled["fid"] / 3
    assert result["class_coverage"] == 1.0


def test_report_escapes_what_it_shows_and_spreads_grids(root: Path) -> None:
    result = evaluate(CONFIG, root=root)
    facts = root / "models" / "generator.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"family": "<b>x</b>"}))
    grids = root / "reports" / "training" / "grids"
    grids.mkdir(parents=True)
    for i in range(20):
        Image.new("L", (4, 4), i).save(grids / f"{i:04d}.png")
    page = report.render(root, result)
    assert "<b>x</b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt; report" in page
    shown = [i for i in range(20) if f'alt="{i} images"' in page]
    assert len(shown) == report.MAX_GRIDS
    assert (shown[0], shown[-1]) == (0, 19)
