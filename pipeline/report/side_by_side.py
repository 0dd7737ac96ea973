"""Models side by side: the page, one picture, and the numbers of a comparison."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ganlib.metrics import needs
from ganlib.pictures import NOTICE
from pipeline.report import numbers, seen, significance
from pipeline.report.numbers import Number
from pipeline.report.page import Picture
from pipeline.report.significance import Difference, Reversal
from pipeline.report.templates import environment

COLUMNS = 12


@dataclass(frozen=True, kw_only=True)
class Model:
    """One of the compared models.

    Attributes:
        facts: its generator.json.
        images: [n, C, H, W] uint8, of the common latents.
        has_same_latents: its latents are drawn as those of the first model.
        evaluation: its evaluation.json; None where it was not measured, or that is lost.
    """

    name: str
    facts: Mapping[str, Any]
    images: np.ndarray
    has_same_latents: bool
    evaluation: Mapping[str, Any] | None

    @property
    def numbers(self) -> list[Number]:
        return numbers.measured(self.evaluation, needs.values(), {}) if self.evaluation is not None else []

    @property
    def protocol(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.evaluation["protocol"] if self.evaluation is not None else {}
        return found

    @property
    def about(self) -> str:
        said = [str(self.facts.get("family", "generator")), f"{self.facts.get('images_seen', 0):,} images"]
        return ", ".join([*said, f"run {str(self.facts.get('run_key', ''))[:8]}", f"weights {str(self.facts['sha256'])[:8]}"])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one model, and its difference from the first."""

    name: str
    number: Number
    difference: Difference | None
    left: float
    width: float
    mark: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of all models that have it."""

    number: Number
    cells: tuple[Cell, ...]


def apart(models: Sequence[Model]) -> dict[str, str]:
    """Name -> why a model's numbers cannot be set beside those of the first."""
    first = models[0]
    found = {model.name: "there is no evaluation of it" for model in models if model.evaluation is None}
    if first.evaluation is not None:
        for model in models[1:]:
            if model.evaluation is not None and (keys := significance.disagreements(first.protocol, model.protocol)):
                found[model.name] = f"it was measured by another protocol ({', '.join(keys)})"
    return found


def compared(models: Sequence[Model]) -> dict[str, dict[str, Difference]]:
    """Name of each other model that can be compared -> key -> difference from the first."""
    unlike = apart(models)
    others = [model for model in models[1:] if model.name not in unlike]
    if models[0].name in unlike or not others:
        return {}
    found = significance.differences(models[0].numbers, [model.numbers for model in others])
    return {model.name: differences for model, differences in zip(others, found, strict=True)}


def rows(models: Sequence[Model]) -> list[Row]:
    """Every number of the first model with those of the others, on one scale."""
    differences = compared(models)
    shown = [model for model in models[:1] if model.evaluation is not None]
    shown += [model for model in models[1:] if model.name in differences]
    found = []
    for item in models[0].numbers:
        have = [(model, other) for model in shown for other in model.numbers if other.key == item.key]
        low = min(0.0, *(other.span.low for _, other in have)) if not item.about.is_share else 0.0
        high = max(other.span.high for _, other in have) if not item.about.is_share else 1.0
        size = max(high - low, 1e-12) / (1.0 if item.about.is_share else numbers.SHARE_OF_BAR)

        def place(value: float, low: float = low, size: float = size) -> float:
            return round(100 * min(1.0, max(0.0, (value - low) / size)), 1)

        cells = tuple(
            Cell(
                name=model.name,
                number=other,
                difference=differences.get(model.name, {}).get(item.key),
                left=place(other.span.low),
                width=round(place(other.span.high) - place(other.span.low), 1),
                mark=place(other.span.value),
            )
            for model, other in have
        )
        found.append(Row(number=item, cells=cells))
    return found


def render(models: Sequence[Model], *, seed: int) -> str:
    """The page: the same latents, then each number with what chance says of its difference."""
    found = rows(models)
    return (
        environment()
        .get_template("compare.html")
        .render(
            title=f"{len(models)} models side by side",
            models=models,
            pictures=[Picture.of(seen.synthetic(model.images, columns=COLUMNS), f"Images of {model.name}") for model in models],
            seed=seed,
            rows=[row for row in found if row.number.about.is_headline],
            others=[row for row in found if not row.number.about.is_headline],
            apart=apart(models),
            level=significance.LEVEL,
            sentences=sentences(models),
            number=numbers.number,
        )
    )


def sentences(models: Sequence[Model]) -> list[str]:
    """What a person wants to know first: for each other model, which numbers are better and worse than the first's by more than chance; and
    where two extractors rank models in another order.
    """
    titles = {item.key: item.title for item in models[0].numbers}
    found = []
    for name, differences in compared(models).items():
        told = []
        for direction in ("better", "worse"):
            keys = [titles[key] for key, item in differences.items() if item.is_significant and item.direction == direction]
            told += [f"{direction} in {', '.join(keys)}"] if keys else []
        found.append(f"{name} is {' and '.join(told)}" if told else f"{name} is not to be told apart from {models[0].name} by any number")
    return found + significance.told(reversals(models), str(models[0].protocol.get("extractor")))


def reversals(models: Sequence[Model]) -> list[Reversal]:
    """Which of the models that can be compared are ranked otherwise by another extractor."""
    unlike = apart(models)
    return significance.reversals({model.name: model.numbers for model in models if model.name not in unlike})


def picture(models: Sequence[Model]) -> bytes:
    """All models in one PNG, a strip of the same latents each, below its name."""
    strips = [Image.open(io.BytesIO(seen.tiles_png(model.images, columns=COLUMNS))).convert("RGBA") for model in models]
    font = ImageFont.load_default(16)
    height, width = (
        sum(strip.height + 40 for strip in strips),
        20 + max(*(strip.width for strip in strips), *(math.ceil(font.getlength(f"{model.name}: {model.about}")) for model in models)),
    )
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for model, strip in zip(models, strips, strict=True):
        draw.text((10, top + 10), f"{model.name}: {model.about}", fill="black", font=font)
        sheet.paste(strip, (10, top + 34), strip)
        top += strip.height + 40
    text, stream = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Notice", NOTICE)
    sheet.save(stream, "png", pnginfo=text)
    return stream.getvalue()


def summary(models: Sequence[Model]) -> dict[str, Any]:
    """The comparison for a program: what each model is, its numbers, and their differences from the first's."""
    differences, unlike = compared(models), apart(models)
    return {
        "format": 1,
        "level": significance.LEVEL,
        "test": "two-sided z-test of the stored 95 % intervals; Holm's correction over all numbers and models",
        "models": [
            {
                "name": model.name,
                "run_key": model.facts.get("run_key"),
                "sha256": model.facts["sha256"],
                "has_same_latents": model.has_same_latents,
                "not_compared": unlike.get(model.name),
                "numbers": {item.key: asdict(item.span) for item in model.numbers},
                "differences": {key: asdict(item) for key, item in differences.get(model.name, {}).items()},
            }
            for model in models
        ],
        "reversals": [asdict(item) for item in reversals(models)],
    }
