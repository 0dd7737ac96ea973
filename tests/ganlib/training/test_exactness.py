"""The promise: the result depends on data, settings and code; not on processes, interruptions or where a checkpoint fell."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parts import parts_of, steering_of

from ganlib.training.loop import Interrupted, train

ROOT = Path(__file__).resolve().parents[3]

# everything that has ever broken exactness elsewhere, at once
HARD = {
    "task__regularizers": {"r1": {"gamma": 1.0, "interval_steps": 4}},
    "task__discriminator_repeats": 2,
    "task__history_images": 6,
    "model__generator": {"width": 8, "dropout": 0.1},
    "model__discriminator": {"width": 8, "minibatch_stddev": True, "dropout": 0.1},
}
WGAN = {
    "model__name": "mlp",
    "task__loss": "wasserstein",
    "task__weight_clip": 0.05,
    "train__precision": "fp32",
    "optim__discriminator": {"name": "rmsprop", "lr": 1e-3},
}
RELATIVISTIC = {
    "task__loss": "relativistic",
    "model__discriminator": {"width": 8, "normalization": "none"},
    "task__regularizers": {"gradient_penalty": {}, "r1": {}, "r2": {}},
}
STEERED = {  # numbers that follow the training or images seen, and the gradient's norm, which is of the whole batch
    "task__loss": "non_saturating",
    "task__augment": {"ada": {"p": 0.5, "speed_images": 2000}},
    "task__regularizers": {
        "lecam": {},
        "r1": {"interval_steps": 4, "gamma": {"schedule": "cosine", "from": 1.0, "to": 0.1, "end_images": 900}},
    },
    "task__label_noise": 0.1,
    "model__discriminator": {"width": 8, "normalization": "none"},
    "optim__discriminator": {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.99]}, "max_gradient_norm": 1.0},
    "optim__generator": {
        "name": "adam",
        "lr": {"schedule": "cosine", "from": 1e-3, "to": 1e-4, "end_images": 900},
        "options": {"betas": [0.5, {"schedule": "linear", "from": 0.9, "to": 0.99, "end_images": 900}]},
    },
    "train__ema_halflife_images": {"schedule": "linear", "from": 2, "to": 20, "end_images": 900},
}
CLASSES = {
    "model__conditional": True,
    "model__discriminator": {"width": 8, "condition": "auxiliary"},
    "task__augment": {"diffaugment": {}, "instance_noise": {"anneal_images": 400}},
    "task__regularizers": {
        "auxiliary_classifier": {},
        "balanced_consistency": {},
        "consistency": {"flip": True, "interval_steps": 3},
        "feature_matching": {},
        "orthogonal": {"discriminator_weight": 1e-4},
    },
}
STYLES = {
    "model__name": "stylegan2",
    "task__regularizers": {"path_length": {"interval_steps": 2}, "dragan": {}, "lecam": {"interval_steps": 2}},
    "task__loss": "relativistic",
    "task__loss_options": {"average": True},
}


def torchrun(specs, processes: int) -> None:
    paths = [Path(spec.folder) / "spec.json" for spec in specs]
    for path, spec in zip(paths, specs, strict=True):
        path.write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", "ganlib.training", *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.heavy
def test_one_two_and_four_processes_end_in_the_same_bytes(make_spec):
    cases = {"hard": HARD, "relativistic": RELATIVISTIC}
    expected = {}
    for name, settings in cases.items():
        alone = make_spec(f"{name} alone", **settings)
        train(alone)
        expected[name] = parts_of(alone.folder)
    assert {"generator", "discriminator", "ema", "optimizer.generator", "optimizer.discriminator", "losses", "health", "pool"} <= set(
        expected["hard"]
    )
    for processes in (2, 4):
        specs = {name: make_spec(f"{name} {processes}", **settings) for name, settings in cases.items()}
        torchrun(list(specs.values()), processes)
        assert {name: parts_of(spec.folder) for name, spec in specs.items()} == expected, processes


@pytest.mark.heavy
def test_every_term_and_what_steers_on_two_processes(make_spec):
    cases = {"steered": STEERED, "classes": CLASSES, "styles": STYLES}
    specs = {name: make_spec(f"{name} on two", **settings) for name, settings in cases.items()}
    torchrun(list(specs.values()), 2)
    for name, settings in cases.items():
        alone = make_spec(name, **settings)
        train(alone)
        assert parts_of(specs[name].folder) == parts_of(alone.folder), name
        assert steering_of(specs[name].folder) == steering_of(alone.folder), name
    assert steering_of(specs["steered"].folder)["ada"]["p"] != 0.5
    assert steering_of(specs["styles"].folder)["path_length"]["mean"] > 0
    assert steering_of(specs["classes"].folder) == {"instance_noise": {"images_seen": 640.0}}


@pytest.mark.parametrize("settings", [HARD, WGAN, STEERED], ids=["hard", "wgan", "steered"])
def test_an_interruption_anywhere_changes_nothing(make_spec, settings):
    settings = {**settings, "train__total_images": 1600, "train__history_interval_images": 192}
    whole = make_spec("whole", **settings)
    train(whole)
    parts = make_spec("parts", **settings)
    asked = iter([True, *[False] * 1000])  # stop at the first time of asking, between two log lines and two checkpoints
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: next(asked))
    assert parts_of(parts.folder) != parts_of(whole.folder)
    train(parts)
    assert parts_of(parts.folder) == parts_of(whole.folder)
    assert steering_of(parts.folder) == steering_of(whole.folder)


def test_logical_workers_are_part_of_the_recipe(make_spec):
    """A test that cannot fail proves nothing: another number of shards must give other bytes."""
    results = []
    for workers in (2, 4):
        spec = make_spec(f"v{workers}", train__logical_workers=workers)
        train(spec)
        results.append(parts_of(spec.folder))
    assert results[0]["generator"] != results[1]["generator"]


def test_accumulation_is_the_mean_over_the_global_batch(make_spec):
    """1 x 32 = 4 x 8 without batch statistics: the same gradient up to rounding; with a sum instead of a mean it would be 4 times as large."""
    weights = []
    for workers in (1, 4):
        spec = make_spec(
            f"v{workers}",
            model__name="mlp",
            train__logical_workers=workers,
            train__precision="fp32",
            train__augment={},
            train__total_images=32,
            model__latent_dim=1,
            optim__discriminator={"name": "sgd", "lr": 1.0},
            task__loss="wasserstein",
        )
        state = train(spec)
        weights.append(torch.cat([p.detach().flatten() for p in state.networks["discriminator"].parameters()]))
    start = make_spec("start", model__name="mlp", model__latent_dim=1)
    from ganlib import models

    first = models.build_discriminator(start.model, models.ImageSpec(channels=1, size=(8, 8)), seed=0)
    moved = [w - torch.cat([p.detach().flatten() for p in first.parameters()]) for w in weights]
    # latents differ between shards, so only the part that comes from real images is equal; it dominates the size
    assert (moved[0].norm() / moved[1].norm()).item() == pytest.approx(1.0, abs=0.15)
    assert torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0) > 0.95
