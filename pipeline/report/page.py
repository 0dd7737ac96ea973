"""reports/report.html: one page a person reads to judge a generator. Self-contained: pictures inside, no script, nothing fetched."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ganlib.fields import IMAGE
from ganlib.metrics import EXTRACTORS, needs
from ganlib.metrics import calibration as calibrations
from ganlib.metrics.calibration import Calibration
from pipeline.report import charts, numbers, standing, verdict
from pipeline.report.seen import Seen
from pipeline.report.templates import environment

SPLITS = ("train", "val", "test")
MAX_GRIDS = 8  # sample grids over time


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as the page holds it.

    Attributes:
        is_pixels: it consists of images whose pixels stay squares; a drawing is shown at most at its own size.
    """

    source: str
    caption: str
    width: int
    height: int
    is_pixels: bool

    @classmethod
    def of(cls, png: bytes, caption: str, *, is_pixels: bool = True) -> "Picture":
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        return cls(
            source=f"data:image/png;base64,{base64.b64encode(png).decode()}",
            caption=caption,
            width=width,
            height=height,
            is_pixels=is_pixels,
        )


def render(root: Path, evaluation: Mapping[str, Any], seen: Seen | None = None) -> str:
    """The page, from `evaluation`, the pictures that were taken of it, and whatever the project folder `root` holds; what is missing is said."""
    generator, data = _read_json(root / "models" / "generator.json"), _read_json(root / "reports" / "data.json")
    training = root / "reports" / "training"
    protocol, baseline = evaluation["protocol"], evaluation.get("baseline", {})
    calibration = _of_this_ruler(calibrations.read(root / "data" / "calibration"), protocol)
    found = numbers.measured(evaluation, needs.values(), calibration.null if calibration is not None else {})
    watched = charts.table(training / "health.csv")
    alarms = _alarms(training / "alarms.json") if watched else None
    main = verdict.main_distance(found, calibration)
    on_ladder: tuple[standing.Scale | None, list[str]] = (None, [])
    if calibration is not None and main is not None and main.alike is not None:
        on_ladder = standing.scale(calibration, main.key, main.alike), calibration.equivalent(main.key, main.alike)
    classes = _classes(data)
    page = environment().get_template("report.html")
    return page.render(
        title=f"{generator.get('family', 'generator')} report",
        what=f"{protocol['n_fake']:,} generated images against {protocol['n_real']:,} held-out real ones ({protocol['split']} split)",
        extractor=protocol["extractor"],
        verdict=verdict.judge(
            found,
            calibration=calibration,
            alarms=alarms,
            rollbacks=len(generator.get("rollbacks", ())),
            accuracy=protocol.get("extractor_accuracy"),
            majority_share=_majority(calibration, data, protocol),
            num_real=protocol["n_real"],
        ),
        main=main,
        calibration=calibration,
        scale=on_ladder[0],
        equivalents=on_ladder[1],
        sights=standing.sights(calibration, {item.key: item.title for item in found}, numbers.number) if calibration is not None else [],
        faults=_file(
            root / "data" / "calibration" / "ladder.png",
            "Real images, damaged more and more to the right. Orange: at least one number tells them from real images; grey: none does.",
            is_pixels=False,
        )
        if calibration is not None
        else None,
        numbers=found,
        cards=[item for item in found if item.about.is_headline and "@" not in item.key],
        others=_others(evaluation, found),
        baseline=baseline,
        grid=_file(root / "samples" / "grid.png", _of_grid(_told(root / "samples" / "grid.png"))),
        interpolation=_file(
            root / "samples" / "interpolation.png",
            "Each row walks from one latent to another. Smooth change speaks against images that were learnt by heart; jumps speak for it.",
        ),
        of_images=[
            Picture.of(path.read_bytes(), f"{product['name'].replace('_', ' ').capitalize()}: {_told(path).get('Rows', '')}.")
            for product in generator.get("products", ())
            if (path := root / "samples" / f"{product['name']}.png").exists()
        ],
        has_latents=generator.get("image", {}).get("modality", IMAGE) == IMAGE  # a walk is looked at picture by picture
        and all(product["feed"]["kind"] == "latents" for product in generator.get("products", ())[:1]),
        directions=[
            picture
            for name, caption in (
                (
                    "factorised",
                    "Closed-form factorisation: the directions that the generator's first layer stretches most (arXiv:2007.06600). "
                    "A row a direction, the image itself in the middle.",
                ),
                ("principal", "Principal components of what the generator makes, led back to its latents (arXiv:2004.02546)."),
            )
            if (picture := _file(root / "samples" / f"directions_{name}.png", caption)) is not None
        ],
        seen=seen,
        picture=Picture.of,
        features=_file(
            root / "reports" / "plots" / "features.png",
            "Each image a dot, in the two main directions of the real images' features. Real without generated nearby: a missing mode.",
            is_pixels=False,
        ),
        grids=_grids(training / "grids"),
        charts=charts.charts(charts.table(training / "history.csv") | watched, alarms or ()),
        alarms=alarms,
        data=data,
        classes=classes,
        facts=numbers.flat({key: value for key, value in data.items() if key != "classes"}),
        protocol=numbers.flat(protocol),
        generator=generator,
        origin=_origin(generator),
        lineage=numbers.flat(_with_known_classes(generator)),
        percent=numbers.percent,
        number=numbers.number,
    )


def _file(path: Path, caption: str, *, is_pixels: bool = True) -> Picture | None:
    return Picture.of(path.read_bytes(), caption, is_pixels=is_pixels) if path.exists() else None


def _grids(folder: Path) -> list[Picture]:
    """Sample grids over time, named by the images that had been seen."""
    paths = _spread(sorted(folder.glob("*.png")), MAX_GRIDS)
    return [Picture.of(path.read_bytes(), _grid_name(path.stem)) for path in paths]


def _grid_name(stem: str) -> str:
    digits = stem.rpartition("-")[2]
    return f"{int(digits):,} images" if digits.isdigit() else stem


def _alarms(path: Path) -> list[dict[str, Any]] | None:
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _others(evaluation: Mapping[str, Any], found: list[numbers.Number]) -> list[tuple[str, str, str]]:
    """Numbers beside the described ones, and their intervals: what helps to read them."""
    known = {item.key for item in found}
    rest = {
        key: value
        for key, value in evaluation.items()
        if isinstance(value, int | float) and key not in known and not key.endswith(numbers.ENDS)
    }
    ends = {key: [evaluation[key + end] for end in numbers.ENDS if key + end in evaluation] for key in rest}
    return [(key, numbers.text(value), " to ".join(map(numbers.text, ends[key]))) for key, value in rest.items()]


def _classes(data: Mapping[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """(name, images of each split) of the classes that have images; [] without classes."""
    images = (data.get("classes") or {}).get("images") or {}
    counted = [(str(name), {split: counts[split] for split in SPLITS if split in counts}) for name, counts in images.items()]
    return [(name, splits) for name, splits in counted if any(splits.values())]


def _of_this_ruler(calibration: Calibration | None, protocol: Mapping[str, Any]) -> Calibration | None:
    """None where it is of other data, or of another extractor, than were measured with."""
    if calibration is None:
        return None
    made = {"data_digest": calibration.data_digest, "extractor_sha256": calibration.extractor_sha256}
    return calibration if all(protocol.get(key, value) == value for key, value in made.items()) else None


def _majority(calibration: Calibration | None, data: Mapping[str, Any], protocol: Mapping[str, Any]) -> float | None:
    """What an extractor that learnt nothing would reach: as the calibration says, else of one that learns classes their largest share."""
    if calibration is not None:
        return calibration.majority_share
    extractor = protocol["extractor"]
    if extractor not in EXTRACTORS.names() or not EXTRACTORS.get(extractor).needs_classes:
        return None
    counts = [splits.get(protocol["split"], 0) for _, splits in _classes(data)]
    total = sum(counts)
    return max(counts) / total if len(counts) > 1 and total else None


def _told(path: Path) -> Mapping[str, str]:
    """What a picture says of itself."""
    if not path.exists():
        return {}
    with Image.open(path) as picture:
        return {str(key): str(value) for key, value in picture.info.items()}


def _of_grid(told: Mapping[str, str]) -> str:
    if "Rows" in told:
        return f"Rows of {told['Rows']}; not selected."
    classes = f"; {told['Classes']}" if "Classes" in told else ""
    return f"Random samples, not selected{classes}."


def _with_known_classes(generator: Mapping[str, Any]) -> Mapping[str, Any]:
    """generator.json with the numbers of its classes beside their names, without those that had no training images."""
    counts, names = generator.get("image", {}).get("class_counts"), generator.get("class_names")
    if not counts or not names:
        return generator
    return {**generator, "class_names": [f"{i} {name}" for i, (name, count) in enumerate(zip(names, counts, strict=True)) if count]}


def _origin(generator: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of generator.json that tell one generator from another."""
    size = generator.get("image", {}).get("size")
    chosen = {
        "family": generator.get("family"),
        "images": f"{size[0]} x {size[1]}, {generator.get('output', {}).get('channels', '')}" if size else None,
        "weights": generator.get("weights"),
        "parameters": generator.get("parameters"),
        "images seen": generator.get("images_seen"),
        "run key": generator.get("run_key"),
        "git commit": generator.get("git_commit"),
        "parent": generator.get("parent"),
        "data digest": generator.get("data_digest"),
        "sha256 of the weights": generator.get("sha256"),
    }
    return numbers.flat({key: value for key, value in chosen.items() if value is not None})


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly, first and last included."""
    if len(paths) <= count:
        return paths
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
