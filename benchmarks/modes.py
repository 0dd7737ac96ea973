"""Mode collapse on data whose modes are known: a ring of 8 and a grid of 25 Gaussians, and 1,000 stacked digits. docs/ZOO.md, docs/zoo/modes.*.

    python benchmarks/modes.py                       # about 12 minutes on one core
    python benchmarks/modes.py --only ring grid --seconds-each 20 --seeds 0 1 2

Every training has the same CPU seconds, the step is the project's own, and the generator is measured as it stands at the end, without a moving
average, which would mix the modes a collapsed training jumps between. The ring and the grid have the centres of PacGAN's (arXiv:1712.04086, section
4.1) scaled into [-1, 1]; their Gaussians are two to four times as wide, because these trainings are short. The stacked digits are scikit-learn's,
8x8, where the published figures are of MNIST. Data, methods, counting and the page stand in one file: nothing else uses them.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FIGURE = ROOT / "docs" / "zoo" / "modes.png"
RESULTS = ROOT / "docs" / "zoo" / "modes.json"
HIGH_QUALITY_DEVIATIONS = 3.0
NUM_POINTS = 50_000
NUM_SAMPLES = 2_500  # of points, as in arXiv:1712.04086
NUM_STACKED = 26_000  # of stacked digits, likewise
FAMILY_FACTOR = 4  # so much longer are the trainings that compare families: most are slower than the plain networks
SURE = 0.9  # a digit is clear where the classifier gives its class so much

# Published, for orientation only: full MNIST at 28x28, other and larger networks (arXiv:1712.04086, table 2): name -> (modes of 1,000, reverse KL)
PUBLISHED = {
    "DCGAN": (99.0, 3.40),
    "ALI": (16.0, 5.40),
    "Unrolled GAN": (48.7, 4.32),
    "VEEGAN": (150.0, 2.95),
    "PacDCGAN2": (1000.0, 0.06),
}

Row = dict[str, Any]
Changes = dict[str, Any]


# ---- what is counted


def shares_of(modes: np.ndarray, num_modes: int) -> np.ndarray:
    """[n] int64 -> [num_modes] float64 that sum to 1."""
    return np.bincount(modes, minlength=num_modes) / len(modes)


def reverse_kl(fake: np.ndarray, real: np.ndarray) -> float:
    """KL(fake || real) in nats of two distributions over modes; infinite where fakes lie in a mode that the data do not have."""
    there = fake > 0
    with np.errstate(divide="ignore"):
        return float((fake[there] * np.log(fake[there] / real[there])).sum())


def of_points(points: np.ndarray, centres: np.ndarray, std: float) -> dict[str, float]:
    """A point belongs to the nearest centre, and is of high quality within 3 deviations; a mode is covered by one such point.

    Args:
        points: [n, 2]. centres: [k, 2], each with a k-th of the data.
    """
    distances = np.linalg.norm(points[:, None] - centres[None], axis=2)
    modes, is_good = distances.argmin(1), distances.min(1) <= HIGH_QUALITY_DEVIATIONS * std
    return {
        "modes": float(len(np.unique(modes[is_good]))),
        "high_quality": float(is_good.mean()),
        "reverse_kl": reverse_kl(shares_of(modes, len(centres)), np.full(len(centres), 1 / len(centres))),
    }


def of_stacks(digits: np.ndarray, certainty: np.ndarray, real_shares: np.ndarray) -> dict[str, float]:
    """digits [n, 3] int64 read as a number of three digits; certainty [n, 3] of the classifier. A mode is covered by one image that is clear.

    Without that, noise, which the classifier reads as anything, covers nearly all of them.
    """
    modes, is_clear = digits @ np.array([100, 10, 1]), (certainty > SURE).all(1)
    return {
        "modes": float(len(np.unique(modes[is_clear]))),
        "high_quality": float(is_clear.mean()),
        "reverse_kl": reverse_kl(shares_of(modes, 1000), real_shares),
    }


# ---- data


@dataclass(frozen=True)
class Points:
    """Points of the plane as images [1, 1, 2] for a `BatchStream`, which maps 0..255 to [-1, 1]: floats, so that nothing is rounded."""

    array: np.ndarray  # [N, 1, 1, 2] float32
    labels: None = None
    is_far: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.array[indices]


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one width at `centres` [k, 2], inside [-1, 1]."""

    centres: np.ndarray
    std: float

    @classmethod
    def ring(cls) -> "Mixture":
        angles = np.arange(8) * 2 * math.pi / 8
        return cls(0.8 * np.stack([np.cos(angles), np.sin(angles)], 1), 0.03)

    @classmethod
    def grid(cls) -> "Mixture":
        steps = np.arange(-4, 5, 2) / 5
        return cls(np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2), 0.02)

    def draw(self, count: int, *, seed: int) -> np.ndarray:
        """[count, 2] float32."""
        import torch

        from ganlib.rng import keyed_rng

        generator = keyed_rng(seed, "mixture")
        chosen = torch.randint(len(self.centres), (count,), generator=generator).numpy()
        return (self.centres[chosen] + self.std * torch.randn(count, 2, generator=generator).numpy()).astype(np.float32)


@dataclass(frozen=True)
class Digits:
    """Three digits as the three colours of an image, and a classifier that reads them."""

    images: np.ndarray  # [N, 3, 8, 8] uint8
    shares: np.ndarray  # [1000]
    classifier: Any
    accuracy: float

    @classmethod
    def stacked(cls, *, count: int = 50_000, seed: int = 0) -> "Digits":
        import torch
        from sklearn.datasets import load_digits

        from ganlib.metrics.classifier import Classifier
        from ganlib.metrics.interface import ArrayImages
        from ganlib.rng import keyed_rng

        pixels, labels = load_digits(return_X_y=True)
        images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = labels.astype(np.int64)
        order = torch.randperm(len(images), generator=keyed_rng(seed, "digits")).numpy()
        held, rest = order[:300], order[300:]
        classifier = Classifier.fit(ArrayImages(images[rest], labels[rest]), labels[rest], seed=seed, epochs=8)
        accuracy = classifier.accuracy(ArrayImages(images[held], labels[held]))
        chosen = torch.randint(len(images), (count, 3), generator=keyed_rng(seed, "stacks")).numpy()
        stacks = images[chosen][:, :, 0]
        return cls(stacks, shares_of(labels[chosen] @ np.array([100, 10, 1]), 1000), classifier, accuracy)

    def measure(self, images: np.ndarray) -> dict[str, float]:
        """[n, 3, 8, 8] uint8 generated images."""
        import torch

        from ganlib.metrics import interface

        features = interface.extract(self.classifier, interface.ArrayImages(images.reshape(-1, 1, *images.shape[2:])))
        certainty, digits = torch.softmax(self.classifier.class_logits(features), 1).max(1)
        return of_stacks(digits.reshape(-1, 3).numpy(), certainty.reshape(-1, 3).numpy(), self.shares)


# ---- methods: what is laid over the plain settings

GRADIENT_PENALTY: Changes = {"regularizers": {"gradient_penalty": {"weight": 1.0}}}
LOSSES: dict[str, Changes] = {
    "minimax": {"task": {"loss": "minimax"}},
    "non-saturating": {"task": {"loss": "non_saturating"}},
    "least squares": {"task": {"loss": "least_squares"}},
    "Wasserstein, gradient penalty": {"task": {"loss": "wasserstein", **GRADIENT_PENALTY}},
    "hinge, spectral norm": {"task": {"loss": "hinge"}, "model": {"discriminator": {"spectral_norm": True}}},
    "relativistic, R1 and R2": {"task": {"loss": "relativistic", "regularizers": {"r1": {"gamma": 0.1}, "r2": {"gamma": 0.1}}}},
}
CURES: dict[str, Changes] = {
    "minimax": {"task": {"loss": "minimax"}},
    "+ minibatch deviation": {"model": {"discriminator": {"minibatch_stddev": True}}},
    "+ minibatch discrimination": {"model": {"discriminator": {"minibatch_discrimination": 16}}},
    "+ feature matching": {"task": {"regularizers": {"feature_matching": {}}}},
    "+ instance noise": {"task": {"augment": {"instance_noise": {"std": 0.1, "anneal_images": 1_000_000}}}},
    "+ label smoothing": {"task": {"loss_options": {"smoothing": 0.1}}},
    "+ R1": {"task": {"regularizers": {"r1": {"gamma": 0.1}}}},
    "+ gradient penalty": {"task": GRADIENT_PENALTY},
    "+ DRAGAN": {"task": {"regularizers": {"dragan": {"weight": 1.0}}}},
    "+ spectral norm": {"model": {"discriminator": {"spectral_norm": True}}},
    "+ LeCam": {"task": {"regularizers": {"lecam": {"weight": 0.3}}}},
}
IMAGE_CURES: dict[str, Changes] = {"+ DiffAugment": {"task": {"augment": {"diffaugment": {"policy": ["translation", "cutout"]}}}}}
NARROW = {"generator": {"width": 16}, "discriminator": {"width": 16}}
FAMILIES: dict[str, Changes] = {
    "mlp": {"model": {"name": "mlp", "generator": {"width": 32, "depth": 2}, "discriminator": {"width": 32, "depth": 2}}},
    "dcgan": {},
    "resnet, hinge": {"model": {"name": "resnet", **NARROW}, "task": {"loss": "hinge"}},
    "sagan, hinge": {"model": {"name": "sagan", **NARROW}, "task": {"loss": "hinge"}},
    "biggan, hinge": {"model": {"name": "biggan", **NARROW}, "task": {"loss": "hinge"}},
    "stylegan2, R1": {"model": {"name": "stylegan2", **NARROW}, "task": {"regularizers": {"r1": {"gamma": 0.01, "interval_steps": 16}}}},
    "r3gan": {"model": {"name": "r3gan", **NARROW}, "task": LOSSES["relativistic, R1 and R2"]["task"]},
}


def plain(data: str) -> dict[str, Any]:
    """Settings of every method on `data`, before its changes.

    The ring asks how well a mixture is learnt: equal learning rates, two latents. The grid asks who collapses: 256 latents and a generator that
    learns ten times as fast as its discriminator (arXiv:1611.02163, appendix A), which is what makes it run after one place.
    """
    generator = {"name": "adam", "lr": 1e-3 if data == "grid" else 2e-3, "options": {"betas": [0.5, 0.999]}}
    discriminator = generator | {"lr": 1e-4} if data == "grid" else generator
    small = {"width": 16, "depth": 2}
    model: dict[str, Any] = {"name": "mlp", "latent_dim": 256 if data == "grid" else 2, "generator": small, "discriminator": small}
    if data == "stacked":
        model = {"name": "dcgan", "latent_dim": 64, "generator": {"width": 16}, "discriminator": {"width": 16, "normalization": "none"}}
        generator = discriminator = generator | {"lr": 5e-4}
    return {
        "model": model,
        "task": {"loss": "non_saturating"},
        "optim": {"generator": generator, "discriminator": discriminator},
        "train": {
            "total_images": 1 << 40,
            "batch_images": 128 if data != "stacked" else 64,
            "logical_workers": 1,
            "precision": "fp32",
            "ema_halflife_images": 0,
        },
    }


def methods(data: str) -> dict[str, dict[str, Changes]]:
    """Table -> method -> changes."""
    tables = {"losses": LOSSES, "cures of minimax": CURES | (IMAGE_CURES if data == "stacked" else {})}
    return tables | ({"families": FAMILIES} if data == "stacked" else {})


def settings(data: str, table: str, changes: Changes) -> dict[str, Any]:
    """The plain settings with the changes; those of a network are added to its options, unless the family is another."""
    values: dict[str, Any] = json.loads(json.dumps(plain(data)))
    model, task = dict(changes.get("model", {})), dict(changes.get("task", {}))
    if table == "cures of minimax":
        task.setdefault("loss", "minimax")
    if "name" in model and model["name"] != values["model"]["name"]:
        values["model"] = {"latent_dim": values["model"]["latent_dim"]}
    for network in ("generator", "discriminator"):
        if network in model:
            values["model"].setdefault(network, {}).update(model.pop(network))
    values["model"].update(model)
    values["task"].update(task)
    return values


# ---- one training


def train(values: dict[str, Any], arrow: Path, *, seed: int, seconds: float, images: Any = None) -> tuple[Any, Any]:
    """(Running, generator ready for samples) after so many CPU seconds of steps.

    Args:
        arrow: a train.arrow of the right shape. images: read in its place.
    """
    from ganlib import sampling
    from ganlib.training.hooks import calibrate_generator
    from ganlib.training.loop import Running, TrainingSpec

    values = values | {"train": values["train"] | {"seed": seed}, "data": str(arrow), "folder": "/nowhere"}
    running = Running.start(TrainingSpec.model_validate_json(json.dumps(values)))
    if images is not None:
        running.batches.images = images
    start = time.process_time()
    while time.process_time() - start < seconds:
        running.step()
    network = running.state.ema.module  # with a half-life of 0 it is the generator itself
    calibrate_generator(network, sampling.Prior.of(running.spec.model, running.image), running.spec.train)
    return running, network


def write_arrow(path: Path, images: np.ndarray) -> Path:
    from ganlib.data.arrow import ArrowWriter

    with ArrowWriter(path, shape=images.shape[1:], class_names=None) as writer:
        writer.append(images, None)
    return path


def run(
    data: str, table: str, name: str, changes: Changes, *, arrow: Path, source: Any, seed: int, seconds: float
) -> tuple[Row, np.ndarray]:
    """One row, and generated points [n, 2] where the data are points."""
    import torch

    from ganlib import sampling
    from ganlib.training.step import DivergenceError

    row: Row = {"data": data, "table": table, "name": name, "seed": seed, "settings": settings(data, table, changes), "seconds": seconds}
    images = Points((source.draw(NUM_POINTS, seed=seed)[:, None, None] + 1) * 127.5) if data != "stacked" else None
    try:
        running, network = train(row["settings"], arrow, seed=seed, seconds=seconds, images=images)
    except DivergenceError as error:
        return row | {"failure": str(error)}, np.empty((0, 2))
    prior = sampling.Prior.of(running.spec.model, running.image)
    row |= {"steps": running.state.step, "images_seen": running.state.images_seen}
    if data == "stacked":
        inputs = prior.seeded(1, range(NUM_STACKED))
        return row | {"results": source.measure(sampling.generate(network, inputs, batch_images=500))}, np.empty((0, 2))
    with torch.no_grad():
        points = network(*prior.seeded(1, range(NUM_SAMPLES))).flatten(1).numpy()
    return row | {"results": of_points(points, source.centres, source.std)}, points


# ---- the page


def markdown(rows: Sequence[Row], data: str, table: str, *, num_modes: int) -> str:
    """One table, in the order of the methods; means over seeds, with the range of the modes."""
    lines = [f"| {table} | modes of {num_modes:,} | high quality | reverse KL | steps |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in dict.fromkeys(row["name"] for row in rows if (row["data"], row["table"]) == (data, table)):
        group = [row for row in rows if (row["data"], row["table"], row["name"]) == (data, table, name)]
        done = [row for row in group if "results" in row]
        if not done:
            lines.append(f"| {name} | diverged | - | - | - |")
            continue
        mean = {key: float(np.mean([row["results"][key] for row in done])) for key in done[0]["results"]}
        modes = [row["results"]["modes"] for row in done]
        spread = f" ({min(modes):.0f} to {max(modes):.0f})" if len(modes) > 1 else ""
        failed = f"; {len(group) - len(done)} of {len(group)} diverged" if len(done) < len(group) else ""
        steps = f"{np.mean([row['steps'] for row in done]):,.0f}"
        lines.append(
            f"| {name} | {mean['modes']:.{0 if len(modes) == 1 else 1}f}{spread}{failed} | {mean['high_quality']:.1%} | "
            f"{mean['reverse_kl']:.2f} | {steps} |"
        )
    return "\n".join(lines)


def published() -> str:
    lines = ["| published, other data and networks | modes of 1,000 | reverse KL |", "| --- | ---: | ---: |"]
    return "\n".join(lines + [f"| {name} | {modes:,.1f} | {kl:.2f} |" for name, (modes, kl) in PUBLISHED.items()])


def draw(pictures: dict[tuple[str, str], np.ndarray], sources: dict[str, Mixture], path: Path) -> None:
    """Generated points over real ones: a column a method, the ring above the grid."""
    from matplotlib.figure import Figure

    from pipeline.report.plots import FAKE, GREY, REAL

    names = list(dict.fromkeys(name for _, name in pictures))
    data = list(dict.fromkeys(kind for kind, _ in pictures))
    columns = min(8, len(names))
    bands = -(-len(names) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.7 * bands * len(data)))
    for index, name in enumerate(names):
        for row, kind in enumerate(data):
            axes = figure.add_subplot(bands * len(data), columns, (index // columns * len(data) + row) * columns + index % columns + 1)
            real, fake = sources[kind].draw(500, seed=1), pictures.get((kind, name), np.empty((0, 2)))
            axes.scatter(*real.T, s=3, color=REAL, linewidths=0)
            axes.scatter(*fake[:1000].T, s=2, color=FAKE, alpha=0.5, linewidths=0)
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[], yticks=[], aspect="equal")
            for spine in axes.spines.values():
                spine.set_color(GREY)
                spine.set_alpha(0.3)
            if row == 0:
                axes.set_title(name.replace(", ", ",\n"), fontsize=7, color=GREY)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, transparent=True, metadata={"Software": ""})


def page(rows: Sequence[Row], *, accuracy: float | None) -> str:
    sizes = {"ring": 8, "grid": 25, "stacked": 1000}
    titles = {"ring": "Ring of 8 Gaussians", "grid": "Grid of 25 Gaussians", "stacked": "Stacked digits, 1,000 modes"}
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        parts.append(f"### {titles[data]}")
        tables = dict.fromkeys(row["table"] for row in rows if row["data"] == data)
        parts += [markdown(rows, data, table, num_modes=sizes[data]) for table in tables]
        if data == "stacked":
            parts += [f"The classifier is right on {accuracy:.1%} of held-out digits." if accuracy is not None else "", published()]
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    import torch

    from benchmarks import zoo
    from ganlib.files import atomic_write
    from pipeline import lineage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["ring", "grid", "stacked"], default=["ring", "grid", "stacked"])
    parser.add_argument(
        "--seconds-each", type=float, default=8.0, help=f"CPU seconds of training; of families {FAMILY_FACTOR} times as many"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--no-page", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    pictures: dict[tuple[str, str], np.ndarray] = {}
    mixtures = {"ring": Mixture.ring(), "grid": Mixture.grid()}
    done: dict[str, tuple[Row, np.ndarray]] = {}
    accuracy = None
    with tempfile.TemporaryDirectory() as folder:
        for data in args.only:
            source: Any = mixtures[data] if data in mixtures else Digits.stacked()
            if data == "stacked":
                accuracy = source.accuracy
                print(f"classifier: {accuracy:.1%} of held-out digits", flush=True)
            shape = source.images if data == "stacked" else np.zeros((NUM_POINTS, 1, 1, 2), np.uint8)
            arrow = write_arrow(Path(folder) / f"{data}.arrow", shape)
            for table, entries in methods(data).items():
                seconds = args.seconds_each * (FAMILY_FACTOR if entries is FAMILIES else 1)
                for name, changes in entries.items():
                    for seed in args.seeds:
                        key = json.dumps([data, settings(data, table, changes), seed, seconds])
                        if key not in done:  # plain minimax stands in two tables
                            done[key] = run(data, table, name, changes, arrow=arrow, source=source, seed=seed, seconds=seconds)
                        row, points = done[key][0] | {"table": table, "name": name}, done[key][1]
                        rows.append(row)
                        if data in mixtures and seed == args.seeds[0]:
                            pictures.setdefault((data, name), points)
                        told = row.get("results", row.get("failure"))
                        print(f"{data:8} {name:32} seed {seed}: {told} ({row.get('steps', 0):,} steps)", flush=True)
    if args.no_page:
        return
    command = f"python benchmarks/modes.py --seconds-each {args.seconds_each:g} --seeds {' '.join(map(str, args.seeds))}"
    if RESULTS.exists():  # data that were not asked for keep their rows
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        rows += [row for row in before["rows"] if row["data"] not in args.only]
        accuracy = before["classifier_accuracy"] if accuracy is None else accuracy
    value = {"command": command, "commit": lineage.git_commit(ROOT), "classifier_accuracy": accuracy, "rows": rows, "published": PUBLISHED}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(RESULTS, (json.dumps(value, indent=1) + "\n").encode())
    if pictures:
        draw(pictures, mixtures, FIGURE)
    zoo.write_page({"modes": f"`{command}`, commit {value['commit'][:10]}.\n\n" + page(rows, accuracy=accuracy)})


if __name__ == "__main__":
    main()
