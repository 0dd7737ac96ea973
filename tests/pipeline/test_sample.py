"""The sample stage on an untrained generator: what it writes, in every format, and how much of it is in memory."""

import csv
import hashlib
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganlib import samples
from ganlib.data.decode import Conversion, convert
from ganlib.files import sha256_file
from ganlib.metrics import interface
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Prior
from pipeline import generator, latent_pictures
from pipeline.stages.sample import sample

NAMES = ["cat", "a/b", "Ωmega"]
SMALL = {"num_images": 23, "batch_images": 10, "grid_rows": 2, "grid_columns": 4, "interpolation_rows": 2, "interpolation_steps": 3}


def export(root: Path, *, channels: int = 3, size: int = 8, names: list[str] | None = None, counts: tuple[int, ...] = (30, 20, 10)) -> None:
    """models/ of a generator that was not trained: what it makes is not looked at here."""
    model = ModelConfig(name="mlp", latent_dim=4, conditional=names is not None, generator={"width": 8})
    image = ImageSpec(channels=channels, size=(size, size), class_counts=counts if names else ())
    (root / "models").mkdir(parents=True)
    save_file(build_generator(model, image, seed=0).state_dict(), root / "models" / "generator.safetensors")
    facts = {
        "family": "mlp",
        "model": model.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        "git_commit": "c",
        "data_digest": "d",
    }
    facts |= {"sha256": sha256_file(root / "models" / "generator.safetensors"), **({"class_names": names} if names else {})}
    (root / "models" / "generator.json").write_text(json.dumps(facts))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("format", get_args(samples.Format))
def test_every_format_holds_the_same_images_and_comes_out_the_same_twice(format, names, tmp_path):
    """DVC hashes the folder. Kills a time in a tar's header, and an order of files that is the file system's."""
    export(tmp_path, names=names)
    sample(SampleConfig(**SMALL, format=format), tmp_path)
    once, stored = hashes(tmp_path / "samples"), samples.Samples(tmp_path / "samples")
    made = stored.gather(np.arange(23))
    sample(SampleConfig(**SMALL, format=format), tmp_path)
    assert hashes(tmp_path / "samples") == once
    sample(SampleConfig(**SMALL), tmp_path)
    assert np.array_equal(samples.Samples(tmp_path / "samples").gather(np.arange(23)), made)
    assert (stored.labels is None) == (names is None)


def test_what_the_metrics_read_is_not_marked(tmp_path):
    """`evaluate` measures samples/: what the network draws, to the pixel. Kills: the mark of exported images in what is measured."""
    export(tmp_path, size=28, channels=1)
    sample(SampleConfig(**SMALL), tmp_path)
    trained = generator.load(tmp_path / "models")
    with torch.no_grad():
        drawn = trained.network(trained.prior.seeded(1, range(20)).z)
    pixels = ((drawn + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(samples.Samples(tmp_path / "samples").gather(np.arange(20)), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_holds_the_pixels_and_says_that_it_is_synthetic(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    png = samples.encode_png(pixels)
    assert np.array_equal(samples.decode_png(png), pixels)
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.mode, picture.size) == ({1: "L", 3: "RGB", 4: "RGBA"}[channels], (7, 5))
        assert "synthetic" in picture.info["Notice"]
    assert samples.encode_png(pixels.copy()) == png


def test_parquet_is_laid_out_as_hugging_face_has_it(tmp_path):
    export(tmp_path, names=NAMES)
    sample(SampleConfig(**SMALL), tmp_path)
    table = pq.read_table(tmp_path / "samples" / "samples.parquet")
    assert table.column_names == ["image", "seed", "index", "label"]
    assert table["index"].to_pylist() == list(range(23))
    assert set(table["seed"].to_pylist()) == {1}
    first = table["image"][0].as_py()
    assert set(first) == {"bytes", "path"}
    assert first["bytes"].startswith(b"\x89PNG")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": NAMES, "_type": "ClassLabel"}
    assert json.loads(table.schema.metadata[b"shape"]) == [3, 8, 8]
    assert b"synthetic" in table.schema.metadata[b"notice"]
    pixels, _ = convert(
        first["bytes"], Conversion(channels=3, height=8, width=8, resize="lanczos", crop="center")
    )  # our own reader of other data
    assert np.array_equal(pixels, samples.Samples(tmp_path / "samples").gather(np.array([0]))[0])


def test_pictures_lie_in_class_folders_beside_their_table(tmp_path):
    """Kills the mutant that takes a class name for a path: `a/b` would be two folders."""
    export(tmp_path, names=NAMES)
    sample(SampleConfig(**SMALL, format="png"), tmp_path)
    images = tmp_path / "samples" / "images"
    assert sorted(path.name for path in images.iterdir()) == ["a%2Fb", "cat", "metadata.csv", "Ωmega"]
    with (images / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"].rsplit("/")[-1] for row in rows] == [f"{i:06d}.png" for i in range(23)]
    assert all((images / row["file_name"]).is_file() and row["class"] == NAMES[int(row["label"])] for row in rows)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["..", ".hidden", ""], ["%2E.", "%2Ehidden", "%"]), (["Dog", "dog"], ["Dog %0", "dog %1"]), (["a%2Fb", "a/b"], None)],
)
def test_a_folder_of_a_class_is_its_own(names, expected):
    folders = samples.folder_names(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert expected is None or folders == expected


def test_shards_are_tars_that_others_read(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SHARD_IMAGES", 10)
    export(tmp_path, names=NAMES)
    sample(SampleConfig(**SMALL, format="webdataset"), tmp_path)
    shards = sorted((tmp_path / "samples" / "shards").iterdir())
    assert [path.name for path in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(shards[1]) as shard:
        assert shard.getnames()[:3] == ["000010.cls", "000010.json", "000010.png"]
        assert len(shard.getnames()) == 30
        assert {member.mtime for member in shard} == {0}
        said = json.loads(shard.extractfile("000010.json").read())
        assert said["class"] == NAMES[int(shard.extractfile("000010.cls").read())]
    assert len(samples.Samples(tmp_path / "samples").gather(np.arange(23))) == 23


@pytest.mark.parametrize(("name", "size"), [("000000.png", 0), ("1234567.json", 511), ("n" * 100, 8**11 - 1)])
def test_headers_of_shards_are_those_of_tarfile(name: str, size: int) -> None:
    """Kills: a size in another base, a checksum of other bytes, an end of a name that is cut."""
    info = tarfile.TarInfo(name)
    info.size = size
    assert samples.tar_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def peak_bytes(work) -> int:
    """Most that numpy, Python and Arrow held at once while `work` ran."""
    before = pa.total_allocated_bytes()
    held = [0]
    tracemalloc.start()
    try:
        work(held)
        return tracemalloc.get_traced_memory()[1] + max(0, held[0] - before)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format", get_args(samples.Format))
def test_memory_does_not_grow_with_the_number_of_samples(format, tmp_path, monkeypatch):
    """4 times the samples, the same peak: of writing, and of extracting features. Kills gathering the images in a list (4 times the bytes)."""
    monkeypatch.setattr(samples, "GROUP_BYTES", 20 * 3 * 64 * 64)
    monkeypatch.setattr(interface, "EXTRACT_BATCH_IMAGES", 20)
    export(tmp_path, size=64)

    class Mean:
        depths = ("last",)

        def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"last": images.float().mean((2, 3))}

    def written(n: int) -> int:
        config = SampleConfig(**SMALL | {"num_images": n, "batch_images": 20}, format=format)
        return peak_bytes(lambda held: sample(config, tmp_path))

    def read(n: int) -> int:
        def work(held: list[int]) -> None:
            assert len(interface.extract(Mean(), samples.Samples(tmp_path / "samples"))["last"]) == n  # type: ignore[arg-type]
            held[0] = pa.total_allocated_bytes()

        return peak_bytes(work)

    written(20)  # what is imported and cached once
    few = written(100), read(100)
    many = written(400), read(400)
    image_bytes = 3 * 64 * 64
    for less, more in zip(few, many, strict=True):
        assert more - less < 60 * image_bytes, (less, more)  # of the 300 images more


def test_classes_that_are_asked_for(tmp_path):
    export(tmp_path, names=NAMES, counts=(30, 20, 0))
    config = SampleConfig(**SMALL | {"num_images": 7}, classes={"a/b": 5, 0: 2})
    sample(config, tmp_path)
    stored = samples.Samples(tmp_path / "samples")
    assert stored.labels.tolist() == [1] * 5 + [0] * 2
    assert stored.facts.drawn_classes == (0, 1)
    sample(SampleConfig(**SMALL, classes=["a/b"]), tmp_path)
    assert set(samples.Samples(tmp_path / "samples").labels.tolist()) == {1}
    with Image.open(tmp_path / "samples" / "grid.png") as picture:
        assert picture.info["Classes"] == "one class a column, of 1 a/b; 1 of 3 classes"
    sample(SampleConfig(**SMALL), tmp_path)
    assert samples.Samples(tmp_path / "samples").facts.drawn_classes is None


@pytest.mark.parametrize(
    ("wanted", "names", "message"),
    [
        (["cta"], NAMES, r"'cta', which is no class of the data \(did you mean 'cat'\?\); legal: 0 cat, 1 a/b, 2 Ωmega"),
        ([3], NAMES, "has 3, which is no class"),
        ([-1], NAMES, "has -1, which is no class"),
        (["cat", 0], NAMES, "names the class 'cat' twice"),
        (["Ωmega"], NAMES, "a class without training images"),
        (["cat"], [], "the generator is told none"),
        ([0], ["1", "0", "2"], "class number 0 is '1', but another class is called '0'"),
    ],
)
def test_classes_that_are_not_there(wanted, names, message):
    with pytest.raises(ValueError, match=message):
        samples.asked_classes(wanted, names, (5, 5, 0))


@pytest.mark.parametrize(
    ("classes", "message"), [({"cat": 3}, "set sample.num_images: 3"), ([], "is empty"), ({"cat": 0}, "at least 1 image")]
)
def test_counts_that_do_not_make_the_images(classes, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**SMALL, classes=classes)


@pytest.mark.parametrize(("num_classes", "bands", "shown"), [(3, 1, 3), (16, 1, 16), (37, 3, 37), (200, 8, 128)])
def test_a_grid_shows_every_class_for_which_it_has_place(num_classes, bands, shown):
    """Kills the old grid, whose 16 columns showed 16 of 37 classes; and one that shows a class without training images."""
    prior = Prior(latent_dim=2, distribution="normal", class_counts=(0, *[1] * num_classes))
    classes = latent_pictures.shown_classes(prior, rows=8, columns=16)
    labels = latent_pictures.grid_labels(prior, classes, rows=8, columns=16)
    assert len(labels) == bands * (8 // bands) * 16
    assert len(set(labels.tolist())) == shown
    assert 0 not in labels.tolist()
    places = -(-len(classes) // 16) * 16
    assert latent_pictures.in_bands(prior, classes, 16) == (classes * 16)[:places]  # in turn, and from the beginning again
    assert latent_pictures.in_bands(prior, classes, 16)[:16] == labels[:16].tolist()


def test_samples_that_were_cut_off_say_so(tmp_path):
    export(tmp_path)
    with pytest.raises(ValueError, match="run `dvc repro sample`"):
        samples.Samples(tmp_path / "samples")
    sample(SampleConfig(**SMALL, format="png"), tmp_path)
    table = tmp_path / "samples" / "images" / "metadata.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"holds 22 images, its samples.json says 23"):
        samples.Samples(tmp_path / "samples")
