"""Every recipe on the same data for the same training seconds, each on one core: docs/ZOO.md, docs/zoo/.

    python benchmarks/zoo.py --seconds 120                          # all recipes, seed 0, two at a time
    python benchmarks/zoo.py --seconds 120 --seeds 0 1 2 --best 5   # and two more seeds for the five best
    python benchmarks/zoo.py --table                                # only write the table again
    python benchmarks/zoo.py --recipes default dcgan --part photos  # on other data: its own table, pictures and gallery

The data are those that `dvc repro reference` prepared, Fashion-MNIST as params.yaml stands; on others params.yaml is set first, and `--part` names
their place in docs/ZOO.md (between the markers NAME and NAME_gallery) and their folder of docs/zoo/.

A training first runs in miniature, so that its speed is known, then for `speed x seconds` images: decays, fades and stages fit into the time. Its
alarms are noted. The moving average is measured as the evaluate stage does, in the reference's main extractor.
A (recipe, seed) that is done is not trained again unless its settings changed; a divergence is a result, any other failure is tried again.
Training, measuring and the page stand in one file because benchmarks/little_data.py is the same three with other changes.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "ZOO.md"
PICTURES = ROOT / "docs" / "zoo"
METRICS = ("fid", "kid", "prdc", "class_coverage")
SHOWN = ("fid", "kid", "precision", "recall", "density", "coverage")
PART = "zoo"  # of the page: the data of params.yaml as it stands
DEFAULT = "default"  # params.yaml as it stands
NOT_COMPARED = frozenset(
    {"digits", "points", "srgan", "inpainting"}
)  # recipes that change the data, or are fed the images they are to make
MINIATURE_SECONDS = 6.0
MINIATURE_STEPS = 10
COLUMNS, ROWS = 10, 5  # of a picture

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and its measurement.

    Attributes:
        name: of the row in the table.
        changes: a recipe, laid over params.yaml; then what is changed in it.
        train_images: so many of the training images; None: all.
        picture: where 50 samples are shown; None: nowhere.
    """

    name: str
    seed: int
    seconds: float
    changes: list[dict[str, Any]]
    train_images: int | None = None
    picture: str | None = None

    @property
    def key(self) -> str:
        return re.sub(r"[^a-z0-9_]+", "-", f"{self.name}-{self.seed}")


# ---- one training, in a process of its own


def settings(job: Job) -> Any:
    """params.yaml with the changes of `job`; ValueError where they do not fit."""
    from pipeline import edit, preflight

    values = edit.plain(ROOT / "params.yaml")
    laid, *over = job.changes
    edit.lay(values, laid)
    for change in over:
        edit.overlay(values, change)
    return preflight.parse(values)


def digest(job: Job) -> str:
    """Of all that a result depends on, beside the code."""
    from ganlib.data.arrow import read_manifest
    from pipeline import lineage

    chosen = settings(job).model_dump(mode="json", include={"model", "task", "optim", "train", "sample", "evaluate"})
    data = read_manifest(ROOT / "data" / "prepared").data_digest
    return lineage.digest([chosen, job.seed, job.seconds, job.train_images, data])


def few_images(count: int, folder: Path) -> Path:
    """A train.arrow of `count` training images, always the same ones."""
    import torch

    from ganlib.data.arrow import ArrowImages, ArrowWriter
    from ganlib.rng import keyed_rng

    images = ArrowImages(ROOT / "data" / "prepared" / "train.arrow")
    chosen = torch.randperm(len(images), generator=keyed_rng(0, "few training images"))[:count].numpy()
    path = folder / "train.arrow"
    with ArrowWriter(path, shape=images.shape, class_names=images.class_names) as writer:
        writer.append(images.gather(chosen), None if images.labels is None else images.labels[chosen])
    return path


def images_per_second(spec: Any, *, seconds: float = MINIATURE_SECONDS) -> float:
    """Speed of a whole training in miniature, all its stages and lazy phases included, after one that warms up.

    In CPU seconds, which one thread on a core of its own spends as fast as real ones: whatever else the machine does costs no images.
    """
    from ganlib.training.loop import Running

    def run(total_images: int) -> float:
        running = Running.start(spec.model_copy(update={"train": spec.train.model_copy(update={"total_images": total_images})}))
        start = time.process_time()  # of one thread: what other processes do beside it does not count
        while running.state.images_seen < total_images:
            running.step()
        return running.state.images_seen / (time.process_time() - start)

    per_step = Running.start(spec).state.images_per_step
    rough = run(MINIATURE_STEPS * per_step)
    return run(max(MINIATURE_STEPS * per_step, int(rough * seconds)))


def measure(job: Job, work: Path) -> Row:
    """Train and measure; a divergence is a row too."""
    from ganlib.training import loop
    from ganlib.training.step import DivergenceError
    from pipeline import lineage

    config = settings(job)
    folder = work / "state" / job.key
    shutil.rmtree(folder, ignore_errors=True)  # a training that was cut off has used an unknown time
    folder.mkdir(parents=True)
    never = 1 << 60
    quiet = {"seed": job.seed, "grid_interval_images": never, "checkpoint_interval_images": never, "select": None, "stop": None}
    train = config.train.model_copy(update=quiet)
    prepared = ROOT / "data" / "prepared"
    spec = loop.TrainingSpec(
        data=str(prepared / "train.arrow" if job.train_images is None else few_images(job.train_images, folder)),
        held_out=str(prepared / "val.arrow"),
        folder=str(folder),
        model=config.model,
        task=config.task,
        optim=config.optim,
        train=train,
        threads=1,
    )
    speed = images_per_second(spec)
    spec = spec.model_copy(update={"train": train.model_copy(update={"total_images": max(train.batch_images, int(speed * job.seconds))})})
    row: Row = asdict(job) | {
        "digest": digest(job),
        "commit": lineage.git_commit(ROOT),
        "family": config.model.name,
        "conditional": config.model.conditional,
        "images_per_second": speed,
        "total_images": spec.train.total_images,
        "threads": 1,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    start, cpu_start = time.perf_counter(), time.process_time()

    def clock() -> Row:
        return {"seconds_trained": time.perf_counter() - start, "cpu_seconds_trained": time.process_time() - cpu_start}

    try:
        state = loop.train(spec)
    except DivergenceError as error:
        return row | clock() | {"status": "diverged", "failure": str(error)}
    row |= clock() | {
        "status": "done",
        "images_seen": state.images_seen,
        "steps": state.step,
        "alarms": sorted({alarm["name"] for alarm in state.alarms}),
        "parameters": {name: sum(p.numel() for p in state.networks[name].parameters()) for name in state.networks},
    }
    row["results"] = _evaluate(state.ema.module, config, spec, picture=job.picture, commit=row["commit"])
    row["collapsed"] = has_collapsed(row["results"])
    shutil.rmtree(folder)
    return row


def _evaluate(network: Any, config: Any, spec: Any, *, picture: str | None, commit: str) -> dict[str, float]:
    """The metrics of the evaluate stage for the averaged generator, and its picture; of a task with truth, of what it makes of held-out images."""
    from ganlib import products, sampling, tasks
    from ganlib.data.arrow import ArrowImages
    from ganlib.pictures import grid_png, in_turn
    from ganlib.training.hooks import calibrate_generator
    from ganlib.training.loop import image_of

    trained_on = ArrowImages(Path(spec.data))
    held_out = ArrowImages(ROOT / "data" / "prepared" / f"{config.evaluate.split}.arrow")
    product = tasks.of(spec.task).products(spec.model, spec.task, image_of(trained_on))[0]
    network, seed, shown = product.of(network), config.sample.seed, range(ROWS * COLUMNS)
    calibrate_generator(network, product.source(trained_on), spec.train)
    is_drawn = isinstance(product.feed, sampling.Prior)
    count = config.sample.num_images if is_drawn else min(config.sample.num_images, len(held_out))
    inputs = product.source(held_out).seeded(seed, range(count))
    images = sampling.generate(network, inputs, batch_images=config.sample.batch_images)
    if picture is not None:
        if is_drawn:
            inputs_shown = product.feed.seeded_of_classes(seed, shown, columns=COLUMNS)
            pixels = sampling.generate(network, inputs_shown, batch_images=len(shown))
        else:
            rows = products.Rows(column=product.feed, images=held_out)
            kinds = products.beside(rows, network, seed, shown[: 2 * COLUMNS], batch_images=len(shown))
            pixels = in_turn(*kinds.values(), columns=COLUMNS)
        path = ROOT / picture
        path.parent.mkdir(parents=True, exist_ok=True)
        description = {"Model": Path(picture).stem, "Seed": str(seed), "Commit": commit}
        path.write_bytes(grid_png(pixels, columns=COLUMNS, description=description))
    labels = None if inputs.labels is None else inputs.labels.numpy()
    return results_of(images, config, labels=labels, truth=held_out.gather(np.arange(count)) if product.has_truth else None)


def results_of(images: np.ndarray, config: Any, *, labels: np.ndarray | None = None, truth: np.ndarray | None = None) -> dict[str, float]:
    """The metrics of the evaluate stage of images [n, C, H, W] uint8, and of pairs where there is a truth [n, C, H, W] uint8."""
    import torch

    from ganlib import metrics
    from ganlib.data.arrow import ArrowImages, read_manifest
    from ganlib.metrics import interface, measure, pairs
    from ganlib.metrics.reference_store import Reference

    reference = Reference.read(ROOT / "data" / "reference", data_digest=read_manifest(ROOT / "data" / "prepared").data_digest)
    compared = measure.Comparisons(
        reference=reference,
        real=measure.stored(reference, config.evaluate.split),
        fake=measure.extract(reference, interface.ArrayImages(images)),
        train=measure.stored(reference, "train"),
        fake_labels=labels,
        class_counts=ArrowImages(ROOT / "data" / "prepared" / "train.arrow").class_counts or None,
    )
    found = compared.measure({name: metrics.METRICS.get(name) for name in METRICS}, config.evaluate)
    if truth is not None:
        made, true = torch.from_numpy(images), torch.from_numpy(truth)
        found |= {name: float(of(made, true).mean()) for name, of in (("psnr", pairs.psnr), ("ssim", pairs.ssim))}
        found["sharpness"] = sharpness(images) / sharpness(truth)
    return found


def sharpness(images: np.ndarray) -> float:
    """Mean absolute Laplacian of [n, C, H, W] uint8: what a blur takes first."""
    x = images.astype(np.float32)
    inner = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return float(np.abs(4 * inner - around).mean(dtype=np.float64))


def has_collapsed(results: dict[str, float]) -> bool:
    """Most of the data are missing: two classes of ten or more, or no real image looks like a neighbour of a generated one."""
    return results.get("class_coverage", 1.0) < 0.85 or results["recall"] < 0.02


# ---- many of them


def run_jobs(jobs: Sequence[Job], *, work: Path, parallel: int, say: Callable[[str], None] = print) -> list[Row]:
    """The rows of `jobs`, those that are not there yet trained `parallel` at a time, each in its own process."""
    from ganlib.files import write_json

    for name in ("jobs", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)

    def run(job: Job) -> Row:
        if (row := finished(job, work)) is not None:
            return row
        request = work / "jobs" / f"{job.key}.json"
        request.write_text(json.dumps(asdict(job)), encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        start = time.perf_counter()
        command = [sys.executable, str(Path(__file__).resolve()), "--job", str(request), "--work", str(work)]
        child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        row = finished(job, work)
        if row is None:  # the child writes its row last
            lines = [line for line in child.stderr.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"the process ended with {child.returncode}"
            row = asdict(job) | {"status": "failed", "failure": reason, "traceback": child.stderr[-4000:]}
            write_json(work / "results" / f"{job.key}.json", row)
        told = f"FID {row['results']['fid']:.2f}" if "results" in row else f"{row['status']}: {row['failure'][:200]}"
        say(f"{job.key}: {told} ({time.perf_counter() - start:.0f} s)")
        return row

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(run, jobs))


def finished(job: Job, work: Path) -> Row | None:
    """The row of `job` where it was trained with these settings, to the end or to a divergence."""
    try:
        row: Row = json.loads((work / "results" / f"{job.key}.json").read_text(encoding="utf-8"))
        if row["status"] in ("done", "diverged") and row["digest"] == digest(job):
            return row
    except (OSError, ValueError, KeyError):
        pass
    return None


def recipe_names() -> list[str]:
    return [DEFAULT, *(path.stem for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.stem not in NOT_COMPARED)]


def changes_of(name: str) -> list[dict[str, Any]]:
    """Recipe `name`; ValueError for an unknown one."""
    from ruamel.yaml import YAML

    if name == DEFAULT:
        return [{}]
    path = ROOT / "recipes" / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"--recipes {name}: no such recipe; legal: {', '.join(recipe_names())}")
    return [YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))]


def jobs_of(names: Iterable[str], seed: int, seconds: float, *, pictures: Path | None) -> list[Job]:
    """One training of each; `pictures` is the folder for 50 samples of each, None: no pictures are made."""
    folder = None if pictures is None else pictures.relative_to(ROOT)
    return [
        Job(name=name, seed=seed, seconds=seconds, changes=changes_of(name), picture=folder and f"{folder}/{name}.png") for name in names
    ]


# ---- the page


def of_names(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by name: the lowest mean FID first, then those that have none, by name."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    return sorted(groups.items(), key=lambda item: (mean_of(item[1], "fid") is None, mean_of(item[1], "fid") or 0.0, item[0]))


def mean_of(rows: Sequence[Row], key: str) -> float | None:
    values = [row["results"][key] for row in rows if "results" in row]
    return statistics.fmean(values) if values else None


def shown(rows: Sequence[Row], key: str, *, digits: int = 2, factor: float = 1.0) -> str:
    """The mean, with the standard deviation where there are several seeds."""
    values = [factor * row["results"][key] for row in rows if "results" in row]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def table(rows: Iterable[Row], *, link: Callable[[str], str] = lambda name: f"`{name}`") -> str:
    """Markdown, the best first; a failure keeps its line."""
    lines = [
        "| recipe | FID | KID x 1000 | precision | recall | density | coverage | images/s | images seen | G / D weights | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, group in of_names(rows):
        done = [row for row in group if "results" in row]
        speed = f"{statistics.fmean(row['images_per_second'] for row in done):,.0f}" if done else "-"
        seen = f"{statistics.fmean(row['images_seen'] for row in done):,.0f}" if done else "-"
        counts = done[0]["parameters"] if done else {}
        first = sorted(counts, key=lambda name: (name != "generator", name))
        weights = " / ".join(f"{counts[name] / 1e3:,.0f}k" for name in first) or "-"
        cells = [
            link(name),
            f"**{shown(group, 'fid')}**" if done else "-",
            shown(group, "kid", factor=1000),
            *(shown(group, key) for key in SHOWN[2:]),
            speed,
            seen,
            weights,
            remark(group),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remark(rows: Sequence[Row]) -> str:
    """What went wrong, and how many seeds there are."""
    parts = []
    if len(rows) > 1:
        parts.append(f"{len(rows)} seeds")
    if collapsed := sum(row.get("collapsed", False) for row in rows):
        parts.append("collapsed" if len(rows) == 1 else f"{collapsed} collapsed")
    parts += sorted({alarm.replace("_", " ") for row in rows for alarm in row.get("alarms", ())})
    for row in rows:
        if "results" not in row:
            reason = re.split(r"(?<=[a-z])[.;] ", " ".join(row["failure"].split()))[0].replace("|", "/")
            seed = "" if len(rows) == 1 else f" (seed {row['seed']})"
            parts.append(f"{row['status']}{seed}: {reason[:160]}")
    return "; ".join(parts)


def gallery(names: Sequence[str], pictures: Path = PICTURES, *, columns: int = 3) -> str:
    """The pictures that are there, in this order."""
    there = [name for name in names if (pictures / f"{name}.png").exists()]
    folder = pictures.relative_to(PAGE.parent)
    lines = ["| " + " | ".join([" "] * columns) + " |", "| " + " | ".join(["---"] * columns) + " |"]
    for start in range(0, len(there), columns):
        cells = [f"{name}<br>![50 samples of {name}, not selected]({folder}/{name}.png)" for name in there[start : start + columns]]
        lines.append("| " + " | ".join(cells + [" "] * (columns - len(cells))) + " |")
    return "\n".join(lines)


def put(text: str, marker: str, body: str) -> str:
    """`text` with `body` between `<!-- marker:begin -->` and `<!-- marker:end -->`; ValueError where they are missing."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{begin} and {end} must stand in {PAGE.relative_to(ROOT)} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{body}\n{end}{rest.split(end)[1]}"


def write_page(parts: dict[str, str]) -> None:
    from ganlib.files import atomic_write

    text = PAGE.read_text(encoding="utf-8")
    for marker, body in parts.items():
        text = put(text, marker, body)
    atomic_write(PAGE, text.encode())


def told(rows: Sequence[Row], command: str) -> str:
    """The command and the circumstances above a table."""
    done = [row for row in rows if "results" in row]
    if not done:
        return f"`{command}`"
    real, cpu = ([row[key] for row in done] for key in ("seconds_trained", "cpu_seconds_trained"))
    commits = sorted({row["commit"][:10] + row["commit"][40:] for row in done})
    return (
        f"`{command}`: {done[0]['seconds']:g} s of training each (found: {min(cpu):.0f} to {max(cpu):.0f} CPU seconds, "
        f"{min(real):.0f} to {max(real):.0f} on the clock), "
        f"one thread on {done[0]['machine']}, commit {', '.join(commits)}."
    )


def link_of(name: str) -> str:
    return f"[{name}](../params.yaml)" if name == DEFAULT else f"[{name}](../recipes/{name}.yaml)"


def all_rows(work: Path, names: Sequence[str], *, seconds: float) -> list[Row]:
    """The newest row of every (recipe, seed) that was ever tried with this budget."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "results").glob("*.json"))]
    return [row for row in rows if row["name"] in names and row["seconds"] == seconds]


def main() -> None:
    from ganlib.files import write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="default: all of recipes/, and params.yaml as it stands")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--best", type=int, help="seeds after the first one only for so many recipes, the best of the first seed")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, one core each")
    parser.add_argument("--work", type=Path, default=ROOT / ".zoo", help="scratch folder: states and results")
    parser.add_argument("--part", default=PART, metavar="NAME", help="of docs/ZOO.md; another one for other data")
    parser.add_argument("--table", action="store_true", help="train nothing, write the page from the results that are there")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work.resolve()
    if args.job is not None:
        job = Job(**json.loads(args.job.read_text(encoding="utf-8")))
        write_json(work / "results" / f"{job.key}.json", measure(job, work))
        return
    names = args.recipes or recipe_names()
    pictures = PICTURES if args.part == PART else PICTURES / args.part
    if not args.table:
        first, *others = args.seeds
        rows = run_jobs(jobs_of(names, first, args.seconds, pictures=pictures), work=work, parallel=args.parallel)
        if args.best is not None:
            names = [name for name, group in of_names(rows) if mean_of(group, "fid") is not None][: args.best]
        jobs = [job for seed in others for job in jobs_of(names, seed, args.seconds, pictures=None)]
        run_jobs(jobs, work=work, parallel=args.parallel)
    rows = all_rows(work, recipe_names(), seconds=args.seconds)
    told_options = {"seeds": " ".join(map(str, args.seeds)), "best": args.best, "part": None if args.part == PART else args.part}
    chosen = "".join(f" --{name} {value}" for name, value in told_options.items() if value is not None)
    command = f"python benchmarks/zoo.py --seconds {args.seconds:g}{chosen}"
    ordered = [name for name, _ in of_names(rows)]
    pictures.mkdir(parents=True, exist_ok=True)
    write_json(pictures / "results.json", rows)
    shown_in = "gallery" if args.part == PART else f"{args.part}_gallery"
    write_page({args.part: told(rows, command) + "\n\n" + table(rows, link=link_of), shown_in: gallery(ordered, pictures)})
    print(table(rows))


if __name__ == "__main__":
    main()
