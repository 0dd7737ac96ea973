"""Every recipe, a few steps, against the slow reference: `Running.step` is what the papers and docs/architecture.md say, labels included.

Mutants it kills, each tried: real labels reversed against real images (`Shard.labels`), D told the real labels for generated images
(`Moment.fake_judgement`), the average given one image a step (`train_step`) or no ramp, a lazy term without its factor k (`Rules.lazy`), rates and
betas without theirs (`optim.build`), two power iterations an update, the same numbers or the same images for every update of D
(`BatchStream.shards`), weights, gradients and pairs that are not clipped or swapped, D over its gradient alone (`normalize_gradient`), pixels over
128 (`to_float`), a level that is not faded in, schedules that read images seen after the step, betas that stay, or are not raised for lazy terms.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_step import NETWORKS, ReferenceTraining
from ruamel.yaml import YAML

from ganlib.data.arrow import ArrowWriter
from ganlib.training.loop import Running, TrainingSpec
from pipeline import edit, preflight

ROOT = Path(__file__).resolve().parents[3]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
CLASS_COUNTS = (61, 33, 19)  # 113 images: an epoch ends within the steps below, whatever the updates of D
BATCH = 16
STEPS = 3
START = 48  # a multiple of every lazy interval in the recipes
yaml = YAML(typ="safe", pure=True)

# What no recipe asks for.
EVERYTHING = """
model: {name: dcgan, conditional: true, generator: {dropout: 0.2}, discriminator: {normalization: none, dropout: 0.2, condition: auxiliary}}
task:
  loss: relativistic
  label_noise: 0.3
  generator_loss_weight: 0.7
  weight_clip: 0.05
  discriminator_repeats: 2
  augment: {diffaugment: {}, instance_noise: {anneal_images: 1000}}
  regularizers:
    auxiliary_classifier: {}
    balanced_consistency: {}
    consistency: {flip: true, interval_steps: 6}
    gradient_penalty: {interval_steps: 3}
    r2: {interval_steps: 8}
    feature_matching: {interval_steps: 2}
    orthogonal: {discriminator_weight: 1.0e-3}
optim:
  generator: {name: adam, lr: 1.0e-3, options: {betas: [0.5, 0.99]}, max_gradient_norm: 1.0e-3}
  discriminator: {name: sgd, lr: 1.0e-2, options: {momentum: 0.9}, max_gradient_norm: 5.0}
  warmup_images: 1000
  decay: cosine
train: {augment: {hflip: {}}, logical_workers: 4}
"""
# Terms that need a discriminator without dropout, between augmentations that draw and lazy phases of their own.
COMPARED = """
model: {name: dcgan, conditional: true, discriminator: {normalization: none}}
task:
  augment: {diffaugment: {}}
  regularizers:
    approximate_r1: {gamma: 2.0, std: 0.1}
    consistency: {}
    approximate_r2: {std: 0.1, interval_steps: 3}
    drift: {weight: 0.1}
    dragan: {}
"""
# Numbers that follow images seen, on their way from step 48 to 51 of 200.
SCHEDULES = """
task:
  loss_options: {smoothing: {schedule: linear, from: 0.0, to: 0.3}}
  augment:
    ada: {p: {schedule: cosine, from: 0.0, to: 0.8, end_share: 0.5}, interval_steps: 2}
    instance_noise: {std: {schedule: linear, from: 0.2, to: 0.05, begin_share: 0.2, end_share: 0.3}, anneal_images: 10000}
  regularizers:
    r1: {gamma: {schedule: cosine, from: 2.0, to: 0.2, begin_images: 100, end_images: 1600}, interval_steps: 16}
    orthogonal: {generator_weight: {schedule: constant, from: 1.0e-3}}
optim:
  generator:
    name: adam
    lr: {schedule: cosine, from: 2.0e-3, to: 5.0e-4, end_share: 0.8}
    options: {betas: [0.5, {schedule: cosine, from: 0.9, to: 0.99, end_share: 0.7}]}
  discriminator:
    name: sgd
    lr: {schedule: linear, from: 0.0, to: 1.0e-2, end_share: 0.4}
    options: {momentum: {schedule: linear, from: 0.5, to: 0.9}}
  warmup_images: 1000
train: {ema_halflife_images: {schedule: linear, from: 8.0, to: 60.0}}
"""
# What the recipes that make images again leave out.
RESTORED = """
model: {name: gated_conv, generator: {width: 4}, discriminator: {width: 4}}
task:
  name: inpainting
  loss: relativistic
  loss_options: {average: true}
  pixel: l2
  pixel_weight: {schedule: linear, from: 1.0, to: 0.5}
  perceptual: discriminator_features
  perceptual_weight: 0.3
  label_noise: 0.3
  generator_loss_weight: 0.2
  regularizers: {r1: {interval_steps: 4}, feature_matching: {}}
  augment: {diffaugment: {}}
optim:
  generator: {name: adam, lr: 1.0e-3, options: {betas: [0.5, 0.99]}}
  discriminator: {name: adam, lr: 1.0e-3, options: {betas: [0.5, 0.99]}}
train: {augment: {hflip: {}}, logical_workers: 4}
"""
# D is shown images of earlier steps, in each of its updates and to the terms of these; each logical worker keeps its own.
REMEMBERED = """
model: {name: dcgan, discriminator: {normalization: none}}
task: {history_images: 5, discriminator_repeats: 2, regularizers: {gradient_penalty: {}, r2: {interval_steps: 3}}}
train: {logical_workers: 4}
"""
OTHERS = {"everything": EVERYTHING, "compared": COMPARED, "schedules": SCHEDULES, "restored": RESTORED, "remembered": REMEMBERED}
CASES = {name: path.read_text(encoding="utf-8") for name, path in RECIPES.items()} | OTHERS


def trains_a_pair(text: str) -> bool:
    """Whether a recipe's task trains the two networks that the reference knows."""
    values = edit.plain(ROOT / "params.yaml")
    edit.lay(values, yaml.load(text))
    return set(preflight.parse(values).optim.networks) == set(NETWORKS)


CASES = {name: text for name, text in CASES.items() if trains_a_pair(text)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """(train.arrow, images, labels): a bright row at the place of the class, so that an image tells its label."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(CLASS_COUNTS)), CLASS_COUNTS))
    images = rng.integers(0, 90, (len(labels), 1, 8, 8), dtype=np.uint8)
    images[np.arange(len(labels)), 0, 2 * labels + 1] += 160
    path = tmp_path_factory.mktemp("labelled") / "train.arrow"
    with ArrowWriter(path, shape=(1, 8, 8), class_names=["a", "b", "c"]) as writer:
        writer.append(images, labels)
    return path, images, labels


def spec_of(text, path, folder):
    """A recipe over params.yaml, in small and in float32."""
    values = edit.plain(ROOT / "params.yaml")
    edit.lay(values, yaml.load(text))
    repeats = values["task"]["discriminator_repeats"]
    step_images = BATCH * repeats
    values["data"] |= {"source": "digits", "image_size": [8, 8], "channels": 1}
    values["train"] |= {
        "seed": 5,
        "batch_images": BATCH,
        "precision": "fp32",
        "channels_last": False,
        "total_images": 200 * step_images,
    }
    if not isinstance(
        values["train"]["ema_halflife_images"], dict
    ):  # above 5 % of the images seen after the first step, below it after the last
        values["train"]["ema_halflife_images"] = 5 * step_images // 2
    values["model"]["latent_dim"] = 6
    for network in NETWORKS:
        options = values["model"][network]
        options |= {
            key: least for key, least in {"width": 4, "mapping_depth": 2, "minibatch_discrimination": 3}.items() if options.get(key)
        }
    if "ada" in values["task"]["augment"]:
        values["task"]["augment"]["ada"] = {"p": 0.5, "interval_steps": 2} | values["task"]["augment"]["ada"]  # it acts, and it moves
    if values["task"]["name"] == "progressive":  # the second step begins the second level, the third is within its fade
        values["task"]["options"] = {"stable_images": START * step_images + step_images, "fade_images": 4 * step_images}
    values["cluster"]["workers"] = 1
    chosen = preflight.parse(values)
    return TrainingSpec(data=str(path), folder=str(folder), model=chosen.model, task=chosen.task, optim=chosen.optim, train=chosen.train)


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_what_the_reference_computes(name, labelled, tmp_path):
    """Weights, buffers, optimizers, the average, what was noted and what follows the training, after each of the steps."""
    path, images, labels = labelled
    spec = spec_of(CASES[name], path, tmp_path)
    sections = {"model": spec.model, "task": spec.task, "optim": spec.optim, "train": spec.train}
    running = Running.start(spec)
    state = running.state
    state.step, state.images_seen = START, START * BATCH * spec.task.discriminator_repeats
    reference = ReferenceTraining(images, labels, **sections, step=START, images_seen=state.images_seen)
    told = listen(state.networks)
    scheduled = ("ada", "p") if name == "schedules" else None  # steered elsewhere
    for _ in range(STEPS):
        running.step()
        reference.step()
        for network in NETWORKS:
            same(state.networks[network].state_dict(), reference.networks[network].state_dict(), what=network)
            same(slots(state.optimizers[network]), slots(reference.optimizers[network]), what=f"optimizer of {network}")
        same(state.ema.module.state_dict(), reference.networks["ema"].state_dict(), what="average")
        noted = {key: value for key, value in reference.means().items() if key != "sign_real" or "ada" in spec.task.augment}
        assert state.scalars.take() == pytest.approx(noted, rel=1e-5, abs=1e-7)
        assert state.steering.numbers() == {
            key: {number: pytest.approx(getattr(part, number), rel=1e-5) for number in part.steered if (key, number) != scheduled}
            for key, part in {"loss": reference.loss, **reference.terms, **reference.augmentations}.items()
            if hasattr(part, "steered")
        }
    assert (state.step, state.images_seen) == (reference.step_number, reference.images_seen)
    if spec.model.conditional:
        assert len(told) > 3 * STEPS
        assert [(network, labels.tolist()) for network, labels in told] == [
            (network, labels.tolist()) for network, labels in reference.told
        ]


def listen(networks):
    """The list of (network, labels it is told) of every call from now on."""
    told = []
    for name in NETWORKS:
        networks[name].register_forward_pre_hook(lambda _, args, name=name: told.append((name, args[1])))
    return told


def slots(optimizer):
    return {f"{index}.{name}": value for index, slots in optimizer.state_dict()["state"].items() for name, value in slots.items()}


def same(found, expected, *, what):
    """Equal but for the last bits: the reference writes a formula down in another order here and there."""
    assert found.keys() == expected.keys(), what
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=2e-6, atol=1e-8, msg=lambda text, key=key: f"{what}, {key}: {text}")
