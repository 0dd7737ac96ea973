"""Classes from the data to whoever sees them: the numbers that are taken, the names that are told, and the names that are drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.pictures import grid_png
from ganlib.products import Product
from pipeline.generator import SAMPLE, Served, TrainedGenerator, numbered
from pipeline.report import page, plots
from pipeline.report.text import class_label
from pipeline.tracking.deciding import shortened

ODD = ["$\\frac{$", "a$b$c", "<b>bold</b>", "&amp;", "50% $5", "_^{}", "猫", "", "two\nlines", 'quote"s', "Ünïcödé", "long " * 30]


def trained(counts: tuple[int, ...], names: list[str]) -> TrainedGenerator:
    model = ModelConfig(name="dcgan", latent_dim=8, conditional=True, generator={"width": 8})
    image = ImageSpec(channels=1, size=(8, 8), class_counts=counts)
    return TrainedGenerator(
        product=Product.read(SAMPLE, model, image),
        network=build_generator(model, image, seed=0).eval(),
        model=model,
        image=image,
        facts={"class_names": names},
    )


def asked(number: float) -> torch.Tensor:
    """Three rows, the second asks for `number`."""
    return torch.tensor([[0.5] * 8 + [1.0], [0.5] * 8 + [number], [0.5] * 8 + [3.0]])


@pytest.fixture(scope="module")
def models() -> tuple[Served, torch.nn.Module]:
    """A served generator of the classes 1, 2 and 3 of 0 to 4, and its export."""
    served = trained((0, 5, 5, 5, 0), ["none", "one", "two", "three", "four"]).served(1.0)
    return served, torch.export.export(served, (asked(1.0),), dynamic_shapes=[{0: torch.export.Dim.AUTO}]).module()


@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("number", [0.0, 4.0, 2.5, 1.0001, -1.0, 5.0, 1e30, float("nan"), float("inf")])
def test_what_is_no_class_is_refused(number: float, models: tuple[Served, torch.nn.Module]) -> None:
    """No training images, between two numbers, out of range: here and in the exported graph. Kills the mutants that round, and that only look
    at the range.
    """
    for model in models:
        with pytest.raises(RuntimeError, match="the last column is no class from 0 to 4 that has training images; it takes whole numbers"):
            model(asked(number))


@pytest.mark.filterwarnings("ignore")
def test_a_class_with_training_images_is_served(models: tuple[Served, torch.nn.Module]) -> None:
    served, exported = models
    expected = served.network(torch.full((3, 8), 0.5), torch.tensor([1, 2, 3]))
    for model in models:
        torch.testing.assert_close(model(asked(2.0)), expected)
    assert not served.state_dict().keys() - {f"network.{name}" for name in served.network.state_dict()}  # the weights, nothing else
    assert exported(asked(2.0)).shape == (3, 1, 8, 8)


def test_the_words_name_every_class_that_there_is() -> None:
    """Kills the mutant that cuts the list at 40, and the one that lists a class of which the networks know nothing."""
    names = [f"kind {number}" for number in range(60)]
    words = trained((0, *[1] * 59), names).served(1.0).words
    assert "a last column with the class, one of the numbers below" in words
    assert words.endswith(f"Classes: {', '.join(f'{i} kind {i}' for i in range(1, 60))}.")
    assert numbered(["a\n b"], [0]) == "0 a b"


def test_a_description_that_the_registry_cannot_hold_says_where_the_rest_stands() -> None:
    """MLflow keeps 5,000 characters: at a whole name. Nothing is cut below."""
    words = "Classes: " + ", ".join(f"{i} kind {i}" for i in range(1000)) + "."
    found = shortened(words)
    assert len(found) <= 5000
    kept = found.removesuffix("... (the rest: mlflow.models.get_model_info of this version, .metadata['description'])")
    assert words.startswith(f"{kept},")
    assert len(kept) > 4800
    assert shortened(words[:5000]) == words[:5000]


def test_a_picture_says_which_classes_it_shows(tmp_path) -> None:
    """The page repeats what the grid says of its classes, as text. Kills a page that takes a name for HTML."""
    told = "one class a column, of 1 <i>1</i>, 7 <i>7</i>; 2 of 99 classes"
    (tmp_path / "samples").mkdir()
    png = grid_png(np.zeros((2, 1, 8, 8), np.uint8), columns=2, description={"Classes": told})
    (tmp_path / "samples" / "grid.png").write_bytes(png)
    protocol = {"n_fake": 80, "n_real": 60, "split": "test", "extractor": "classifier"}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "generator.json").write_text('{"class_names": ["<b>", "one"], "image": {"class_counts": [0, 4]}}')
    text = page.render(tmp_path, {"baseline": {}, "protocol": protocol})
    assert "Random samples, not selected; one class a column, of 1 &lt;i&gt;1&lt;/i&gt;, 7 " in text
    assert "<th>class_names</th><td>1 one</td>" in text
    assert "<i>" not in text


@pytest.mark.parametrize("count", [12, 18, 100])
def test_any_name_can_be_drawn(count: int, tmp_path) -> None:
    """Warnings are errors here: a formula that does not parse, a letter the font lacks, labels that leave no room."""
    names = [ODD[number % len(ODD)] + (f" {number}" if number >= len(ODD) else "") for number in range(count)]
    rng = np.random.default_rng(0)
    known = np.arange(1, count)
    plots.classes(tmp_path / "a.png", rng.choice(known, 500), rng.choice(known, 400), names, known)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == 1300
        assert picture.size[1] > 400


def test_a_formula_is_drawn_as_it_is_written(tmp_path) -> None:
    """`$b$` is no italic b: the picture of a name with it is that of no other name."""
    drawn = []
    for name in ("$b$", "b"):
        plots.classes(tmp_path / "a.png", np.zeros(9, int), np.zeros(9, int), [name], np.arange(1))
        with Image.open(tmp_path / "a.png") as picture:
            ink = np.asarray(picture)[-26:, :, 3] > 0  # below the axis: the label
        drawn.append(np.ptp(np.flatnonzero(ink.any(axis=0))))
    assert drawn[0] > 2 * drawn[1]


def test_labels_of_a_picture() -> None:
    assert [class_label(name, 7) for name in ODD[6:9]] == ["class 7", "class 7", "two lines"]
    assert class_label("x" * 24, 7) == "x" * 24
    assert class_label("x" * 25, 7) == "7 xxxxxxxxx…xxxxxxxxxxxx"
