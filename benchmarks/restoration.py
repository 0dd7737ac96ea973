"""Super-resolution and inpainting against plain ways and against the same network without a discriminator: docs/ZOO.md, docs/zoo/restoration/.

    python benchmarks/restoration.py --seconds 180          # on the data that `dvc repro reference` prepared
    python benchmarks/restoration.py --part restoration32 -S task.perceptual=efficientnet_lite0   # on others, with their place in docs/ZOO.md

Every network trains for the same CPU seconds on one core, as in benchmarks/zoo.py, and makes every image of the held-out split from what the
transform left of it. Plain ways: bicubic enlarging; a hole filled by the solution of the biharmonic equation (scikit-image, which this benchmark
alone needs: `uv pip install scikit-image==0.25.2`). Sharpness is the mean absolute Laplacian over that of the held-out images: 1 is as sharp as they.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import zoo
from zoo import ROOT, Job, Row, changes_of, run_jobs, settings, shown, told, write_page

from pipeline import edit

PART = "restoration"  # of the page
RECIPES = {"srgan": "bicubic", "inpainting": "biharmonic"}  # -> its plain way
WITHOUT = "without discriminator"
SECOND = "fid@classifier"  # of a second extractor, where there is one: what was trained for the first is not judged by it alone


def jobs_of(recipe: str, seed: int, seconds: float, pictures: Path, overrides: Sequence[str]) -> list[Job]:
    """The recipe with `section.key=value` overrides, and with its pixel loss alone."""
    (changes,) = changes_of(recipe)
    edit.override_values(changes, overrides, where=f"recipes/{recipe}.yaml")
    alone = copy.deepcopy(changes)
    for section in ("model", "optim"):
        del alone[section]["discriminator"]
    alone["task"] |= {"generator_loss_weight": 0.0, "perceptual": "none"}
    folder = pictures.relative_to(ROOT)
    return [
        Job(name=name, seed=seed, seconds=seconds, changes=[laid], picture=f"{folder}/{name.replace(' ', '_')}.png")
        for name, laid in ((recipe, changes), (f"{recipe} {WITHOUT}", alone))
    ]


def plain(recipe: str) -> dict[str, float]:
    """What needs no training, on the same held-out images with the same holes."""
    from ganlib import sampling, tasks
    from ganlib.data.arrow import ArrowImages
    from ganlib.products import Rows
    from ganlib.training.loop import image_of

    config = settings(Job(name=recipe, seed=0, seconds=0.0, changes=changes_of(recipe)))
    held_out = ArrowImages(ROOT / "data" / "prepared" / f"{config.evaluate.split}.arrow")
    column = tasks.of(config.task).products(config.model, config.task, image_of(held_out))[0].feed
    count = min(config.sample.num_images, len(held_out))
    fed = Rows(column=column, images=held_out).seeded(config.sample.seed, range(count)).z
    enlarged = column.transform.plain(fed) if RECIPES[recipe] == "bicubic" else biharmonic(fed)
    return zoo.results_of(sampling.to_uint8(enlarged), config, truth=held_out.gather(np.arange(count)))


def biharmonic(fed: Any) -> Any:
    """Masked images with their mask [N, C + 1, H, W] -> the images with the hole filled."""
    import torch
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(image[:-1].transpose(1, 2, 0).astype(np.float64), image[-1] > 0.5, channel_axis=-1).transpose(2, 0, 1)
        for image in fed.numpy()
    ]
    return torch.from_numpy(np.stack(filled)).float().clamp(-1, 1)


def table(rows: list[Row]) -> str:
    """Markdown: a recipe, its pixel loss alone, its plain way."""
    keys = [
        "fid",
        *([SECOND] if any(SECOND in row.get("results", ()) for row in rows) else []),
        "psnr",
        "ssim",
        "sharpness",
        "precision",
        "recall",
    ]
    titles = {"fid": "FID", SECOND: "FID, classifier", "psnr": "PSNR (dB)", "ssim": "SSIM"}
    columns = ("", *(titles.get(key, key) for key in keys), "images seen")
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for name in dict.fromkeys(row["name"] for row in rows):
        group = [row for row in rows if row["name"] == name]
        seen = f"{mean_of_seen(group):,.0f}" if "images_seen" in group[0] else "-"
        cells = [name, *(shown(group, key, digits=3 if key == "ssim" else 2) for key in keys), seen]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_of_seen(rows: list[Row]) -> float:
    return sum(row["images_seen"] for row in rows) / len(rows)


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=180.0, help="of training, each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, one core each")
    parser.add_argument("--work", type=Path, default=ROOT / ".zoo" / PART, help="scratch folder: states and results")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="override of every recipe, as in `dvc exp run -S`"
    )
    parser.add_argument("--part", default=PART, metavar="NAME", help="of docs/ZOO.md; another one for other data")
    args = parser.parse_args()
    pictures = zoo.PICTURES / args.part
    pictures.mkdir(parents=True, exist_ok=True)
    jobs = [job for recipe in args.recipes for job in jobs_of(recipe, args.seed, args.seconds, pictures, args.set_param)]
    trained = run_jobs(jobs, work=args.work.resolve(), parallel=args.parallel, say=say)
    rows: list[Row] = []
    for recipe in args.recipes:
        rows += [row for row in trained if row["name"].partition(" ")[0] == recipe]
        rows.append({"name": RECIPES[recipe], "results": plain(recipe)})
    chosen = "" if args.recipes == list(RECIPES) else f" --recipes {' '.join(args.recipes)}"
    command = f"python benchmarks/restoration.py --seconds {args.seconds:g}{chosen}" + ("" if args.part == PART else f" --part {args.part}")
    command += "".join(f" -S {item}" for item in args.set_param)
    body = told(trained, command) + "\n\n" + table(rows)
    gallery = "\n".join(
        f"{name}: rows of what it is fed, what it makes, and the image itself.\n\n![{name}](zoo/{args.part}/{name}.png)\n"
        for name in args.recipes
    )
    write_page({args.part: body, f"{args.part}_gallery": gallery})
    say(table(rows))


if __name__ == "__main__":
    main()
