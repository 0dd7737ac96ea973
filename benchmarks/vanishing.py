"""The generator's gradient while the discriminator gets better: docs/zoo/vanishing.png and a table in docs/ZOO.md.

After figures 2 and 3 of arXiv:1701.04862: a generator is trained a little and then kept; a fresh discriminator is trained against it, and every so
often the norm of the gradient that the generator would get is measured on the same latents and real images. Scikit-learn's digits, 8x8.

    python benchmarks/vanishing.py        # about 2 minutes on one core
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FIGURE = ROOT / "docs" / "zoo" / "vanishing.png"
RESULTS = ROOT / "docs" / "zoo" / "vanishing.json"
WARM_STEPS = 60  # of the generator, against a discriminator of its own
MEASURED_AT_IMAGES = 1 << 40  # a place in the stream that no training reads
LOSSES: dict[str, dict[str, Any]] = {
    "minimax": {"loss": "minimax"},
    "non-saturating": {"loss": "non_saturating"},
    "least squares": {"loss": "least_squares"},
    "Wasserstein, gradient penalty": {"loss": "wasserstein", "regularizers": {"gradient_penalty": {"weight": 10.0}}},
    "relativistic": {"loss": "relativistic"},
}


def start(task: dict[str, Any], arrow: Path, *, seed: int) -> Any:
    """A `Running` of DCGAN without batch norm in D, which would tie the samples of a batch together."""
    from ganlib.training.loop import Running, TrainingSpec

    adam = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.999]}}
    values = {
        "data": str(arrow),
        "folder": "/nowhere",
        "model": {"name": "dcgan", "latent_dim": 32, "generator": {"width": 16}, "discriminator": {"width": 32, "normalization": "none"}},
        "task": task,
        "optim": {"generator": adam, "discriminator": adam},
        "train": {
            "seed": seed,
            "total_images": 1 << 50,
            "batch_images": 64,
            "logical_workers": 1,
            "precision": "fp32",
            "ema_halflife_images": 0,
        },
    }
    return Running.start(TrainingSpec.model_validate_json(json.dumps(values)))


def gradient_norm(running: Any) -> float:
    """|d loss / d weights| of the generator on one fixed batch; nothing is updated."""
    import torch

    from ganlib import rng

    phase = next(phase for phase in running.play.phases if phase.trains == "generator")
    (shard,) = running.batches.shards("measure", step=0, repeat=0, images_seen=MEASURED_AT_IMAGES)
    with running.state.networks.training("generator") as nets, rng.layer_noise(shard.rng("layers")):
        loss = phase.loss(nets, shard, running.state.scalars.shard(0)).mean()
        gradients = torch.autograd.grad(loss, list(running.state.networks["generator"].parameters()))
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())


def accuracy(running: Any) -> float:
    """Share of one fixed batch, real and generated, that D tells apart by comparing logits with the middle between their means."""
    import torch

    (shard,) = running.batches.shards("measure", step=0, repeat=0, images_seen=MEASURED_AT_IMAGES)
    with torch.no_grad():
        networks = running.state.networks
        real, fake = networks["discriminator"](shard.real), networks["discriminator"](networks["generator"](*shard.inputs()))
        middle = (real.mean() + fake.mean()) / 2
        return float(((real > middle).double().mean() + (fake < middle).double().mean()) / 2)


def curve(task: dict[str, Any], weights: dict[str, Any], arrow: Path, *, seed: int, marks: list[int]) -> dict[str, list[float]]:
    """Gradient norms, and how well D tells the two apart, after each number of updates in `marks`."""
    from ganlib.training.step import train_step

    running = start(task, arrow, seed=seed)
    running.state.networks["generator"].load_state_dict(weights)
    phases = [phase for phase in running.play.phases if phase.trains == "discriminator"]
    found: dict[str, list[float]] = {"norms": [], "accuracies": []}
    for mark in marks:
        while running.state.step < mark:
            train_step(running.state, running.batches, phases)
        found["norms"].append(gradient_norm(running))
        found["accuracies"].append(accuracy(running))
    return found


def digits(folder: Path) -> Path:
    from sklearn.datasets import load_digits

    from benchmarks.modes import write_arrow

    images = np.round(load_digits().images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return write_arrow(folder / "digits.arrow", images)


def markdown(curves: dict[str, Any], marks: list[int], shown: list[int]) -> str:
    """The gradient at some numbers of updates, relative to its largest, and how well D does at the end."""
    lines = [
        "| loss, gradient over its largest | " + " | ".join(f"after {mark:,}" for mark in shown) + " | D is right at the end |",
        "| --- | " + " | ".join(["---:"] * (len(shown) + 1)) + " |",
    ]
    for name, found in curves.items():
        norms = np.exp(np.log(np.maximum(np.array(found["norms"]), 1e-30)).mean(0))  # geometric mean over seeds
        cells = [f"{norms[marks.index(mark)] / norms.max():.2g}" for mark in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {np.array(found['accuracies'])[:, -1].mean():.1%} |")
    return "\n".join(lines)


def draw(curves: dict[str, Any], marks: list[int], path: Path) -> None:
    from matplotlib.figure import Figure

    from pipeline.report.plots import GREY

    figure = Figure(figsize=(8, 3.8))
    axes = figure.add_subplot()
    colors = ("#c44747", "#2f7fd1", "#e8833a", "#3c9a5f", "#8a63b8")
    for color, (name, found) in zip(colors, curves.items(), strict=True):
        norms = np.maximum(np.array(found["norms"]), 1e-30)
        axes.plot(marks, np.exp(np.log(norms).mean(0)), color=color, label=name, linewidth=1.6)
        axes.fill_between(marks, norms.min(0), norms.max(0), color=color, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlabel("updates of a fresh discriminator against a generator that stands still", color=GREY)
    axes.set_ylabel("gradient norm of the generator", color=GREY)
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.8)
    axes.tick_params(colors=GREY, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, transparent=True, metadata={"Software": ""})


def main() -> None:
    import torch

    from benchmarks import zoo
    from ganlib.files import atomic_write
    from pipeline import lineage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="updates of D")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-page", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    marks = sorted({*range(0, args.steps + 1, max(1, args.steps // 40)), args.steps})
    shown = [marks[round(len(marks[1:]) * share)] for share in (0.05, 0.25, 0.5, 1.0)]
    curves: dict[str, Any] = {name: {"norms": [], "accuracies": []} for name in LOSSES}
    with tempfile.TemporaryDirectory() as folder:
        arrow = digits(Path(folder))
        for seed in args.seeds:
            warm = start(LOSSES["non-saturating"], arrow, seed=seed + 1000)
            for _ in range(WARM_STEPS):
                warm.step()
            weights = warm.state.networks["generator"].state_dict()
            for name, task in LOSSES.items():
                for key, values in curve(task, weights, arrow, seed=seed, marks=marks).items():
                    curves[name][key].append(values)
    print(markdown(curves, marks, shown))
    if args.no_page:
        return
    command = f"python benchmarks/vanishing.py --steps {args.steps} --seeds {' '.join(map(str, args.seeds))}"
    value = {"command": command, "commit": lineage.git_commit(ROOT), "marks": marks, "curves": curves}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(RESULTS, (json.dumps(value) + "\n").encode())
    draw(curves, marks, FIGURE)
    zoo.write_page({"vanishing": f"`{command}`, commit {value['commit'][:10]}.\n\n" + markdown(curves, marks, shown)})


if __name__ == "__main__":
    main()
