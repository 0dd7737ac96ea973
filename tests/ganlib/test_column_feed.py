"""A network that is fed another column of the data than the one it learns to make: what it is fed, its truth, and how it is read back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ganlib import transforms
from ganlib.data.arrow import ArrowImages
from ganlib.data.ipc import TableWriter, image_field
from ganlib.fields import Field, class_field
from ganlib.files import sha256_file
from ganlib.models import ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from ganlib.pictures import in_turn
from ganlib.products import Column, Product, Rows, beside
from ganlib.rng import keyed_rng
from ganlib.training.loop import image_of
from pipeline import edit, generator
from pipeline.preflight import _image, parse
from pipeline.schema import Params

HOLES = transforms.read({"name": "holes"})
PHOTO, SCAN, SMALL = image_field("image", (3, 8, 8)), image_field("scan", (1, 4, 4)), image_field("small", (3, 4, 4))
PLACE = Field(name="place", kind="points", shape=(1, 1, 2), dtype="float32", value_range=(-1.0, 1.0))
MODEL = ModelConfig.model_validate({"name": "srresnet", "generator": {"width": 4, "blocks": 1}})


@pytest.fixture
def table(tmp_path: Path) -> ArrowImages:
    random = np.random.default_rng(0)
    with TableWriter(tmp_path / "x.arrow", fields=(PHOTO, class_field("label", ("a", "b")), SCAN, PLACE, SMALL)) as writer:
        writer.append(
            {
                "image": random.integers(0, 256, (20, 3, 8, 8), np.uint8),
                "label": np.arange(20) % 2,
                "scan": random.integers(0, 256, (20, 1, 4, 4), np.uint8),
                "small": random.integers(0, 256, (20, 3, 4, 4), np.uint8),
                "place": random.uniform(-1, 1, (20, 1, 1, 2)).astype(np.float32),
            }
        )
    return ArrowImages(tmp_path / "x.arrow")


def test_a_feed_reads_its_column_and_the_truth_is_what_is_made(table: ArrowImages) -> None:
    """Against the stored numbers. Kills: the made column in place of the named one, a truth that is the input, /127.5 of points."""
    rows, all_rows = Rows(column=Column(field="scan"), images=table), np.arange(20)
    scans, places = table.read("scan", all_rows), table.read("place", all_rows)
    seeded = rows.seeded(3, [7, 2]).z
    np.testing.assert_allclose(seeded.numpy(), scans[[7, 2]].astype(np.float64) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(rows.truth([7, 2]), table.read("image", np.array([7, 2])))
    chosen = torch.randint(20, (5,), generator=keyed_rng(1, "x")).numpy()
    np.testing.assert_allclose(rows.draw(5, keyed_rng(1, "x")).z.numpy(), scans[chosen] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(Rows(column=Column(field="place"), images=table).seeded(3, [4]).z.numpy(), places[[4]])
    image = image_of(table)
    assert Column(field="scan").fed(image) == ImageSpec(channels=1, size=(4, 4))
    assert Column(field="place").fed(image) == ImageSpec(channels=1, size=(1, 2), modality="points")
    with pytest.raises(
        ValueError, match=r"no column 'depth' beside the image; there are: scan, place, small \(params.yaml: data.columns\)"
    ):
        Column(field="depth").fed(image)


def test_a_transform_of_a_column_draws_for_each_row_by_itself(table: ArrowImages) -> None:
    """(seed, i) alone: a row has the same hole in any company. Kills one generator for all rows, and the made column under the hole."""
    rows = Rows(column=Column(field="scan", transform=HOLES), images=table)
    together = rows.seeded(5, range(6)).z
    assert together.shape == (6, 2, 4, 4)
    assert HOLES.fed(ImageSpec(channels=1, size=(4, 4))) == rows.column.fed(image_of(table))
    torch.testing.assert_close(rows.seeded(5, [3]).z, together[3:4], rtol=0, atol=0)
    known = together[:, 1:] < 0.5
    scans = torch.from_numpy(table.read("scan", np.arange(6))) / 127.5 - 1
    torch.testing.assert_close(together[:, :1][known], scans[known], rtol=0, atol=1e-6)


def test_the_settings_say_what_the_prepared_data_say(table: ArrowImages) -> None:
    """A task is checked before there are data: both must give the same. Kills a column that is taken to have the rows' own size."""
    path = Path(__file__).resolve().parents[2] / "params.yaml"
    values = edit.plain(path)
    values["data"] |= {
        "source": "parquet",
        "image_size": [8, 8],
        "channels": 3,
        "columns": {
            "scan": {"channels": 1, "image_size": [4, 4]},
            "place": {"modality": "points", "image_size": [1, 2], "channels": 1, "value_range": [-1.0, 1.0]},
            "small": {"image_size": [4, 4]},
        },
    }
    params: Params = parse(values)
    assert _image(params, (10, 10)) == image_of(table)


def test_a_product_of_another_column_is_read_back_and_makes_the_same(table: ArrowImages, tmp_path: Path) -> None:
    """Through models/: the network is built for the column's size, and served with it. Kills a field that generator.json forgets."""
    image = image_of(table)
    product = Product(name="photograph", network="generator", feed=Column(field="small"), has_truth=True)
    network = build_network(MODEL, image, "generator", role="translator", seed=0, fed=product.fed(image)).eval()
    save_file(network.state_dict(), tmp_path / "generator.safetensors")
    facts = {"family": MODEL.name, "model": MODEL.model_dump(mode="json"), "image": image.model_dump(mode="json")}
    facts |= {
        "networks": {"generator": "translator"},
        "products": [product.facts()],
        "sha256": sha256_file(tmp_path / "generator.safetensors"),
    }
    (tmp_path / "generator.json").write_text(json.dumps(facts))
    trained = generator.load(tmp_path)
    assert (trained.product, trained.image) == (product, image)
    example = trained.example(lambda: table)
    served = trained.served(1.0)
    assert "[N, 3, 4, 4] in [-1, 1]: column 'small' of the data" in served.words
    with torch.no_grad():
        torch.testing.assert_close(served(example), network(Rows(column=Column(field="small"), images=table).seeded(0, range(4)).z))
    kinds = beside(Rows(column=Column(field="small"), images=table), trained.network, 0, range(4), batch_images=4)
    np.testing.assert_array_equal(kinds["input"], table.read("small", np.arange(4)))
    sheet = in_turn(*kinds.values(), columns=4)
    assert sheet.shape == (12, 3, 8, 8)
    np.testing.assert_array_equal(sheet[0, :, ::2, ::2], kinds["input"][0])
    np.testing.assert_array_equal(sheet[8:], kinds["truth"])
    grey = beside(Rows(column=Column(field="scan"), images=table), Wide(), 0, range(4), batch_images=4)["input"]
    shown = in_turn(grey, kinds["truth"], columns=4)[:4]
    np.testing.assert_array_equal(shown[:, :, 1::2, ::2], np.broadcast_to(grey, (4, 3, 4, 4)))  # grey as grey, twice as large
    of_points = Rows(column=Column(field="place"), images=table)
    assert set(beside(of_points, Wide(), 0, range(4), batch_images=4)) == {"made", "truth"}  # points are no picture to lay beside one


class Wide(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.eval()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.scale * x.mean((1, 2, 3), keepdim=True).expand(-1, 3, 8, 8)


def test_images_without_further_columns_are_described_as_before() -> None:
    """Kills an empty `columns` in every generator.json."""
    assert set(ImageSpec(channels=1, size=(8, 8)).model_dump(mode="json")) == {"channels", "size", "class_counts"}
    assert "field" not in Product(name="x", network="generator", feed=Column()).facts()["feed"]
