"""A training that takes over from another one: what goes over, what the new settings decide, and the same bytes however it ran."""

import shutil

import pytest
import torch
from parts import parts_of, steering_of
from test_exactness import HARD, STEERED, torchrun

from ganlib.storage import open_storage
from ganlib.training import parent
from ganlib.training.loop import Interrupted, Running, train
from ganlib.training.parent import FOLDER, Parent
from ganlib.training.state import BundleStore, read_sealed, sealed
from ganlib.training.step import set_learning_rates

PLAIN = {"model__discriminator": {"width": 8, "normalization": "none"}}
CHANGED = {  # of a child of STEERED: every kind of change that is allowed
    **STEERED,
    "train__total_images": 1280,
    "train__batch_images": 64,
    "train__ema_halflife_images": 500,
    "train__augment": {},
    "task__regularizers": {"r1": {"interval_steps": 2, "gamma": 3.0}, "orthogonal": {}},
    "task__augment": {"ada": {"p": 0.1, "speed_images": 3000}, "instance_noise": {"anneal_images": 400}},
    "task__label_noise": 0.0,
    "optim__decay": "linear",
    "optim__discriminator": {"name": "adam", "lr": 3e-4, "options": {"betas": [0.0, 0.9]}},
}


def newest(folder):
    bundle, problems = BundleStore(open_storage(folder), keep=3).newest()
    assert problems == []
    return bundle


def adopt(child, elder, kind="continue"):
    """`child` with what `elder` left copied into its state."""
    ours, theirs = open_storage(child.folder), open_storage(elder.folder)
    bundle = newest(elder.folder)
    files = read_sealed(theirs, bundle.folder) if kind == "continue" else parent.packed(parent.weights_of(bundle))
    ours.write_folder(FOLDER, sealed(files))
    return child.model_copy(update={"parent": Parent(kind=kind)})


@pytest.fixture
def make_elder(make_spec):
    """make_elder(**settings) -> the specification of a training that has ended."""

    def make(**settings):
        spec = make_spec("elder", **settings)
        train(spec)
        return spec

    return make


@pytest.mark.parametrize("settings", [HARD, STEERED], ids=["hard", "steered"])
def test_continuing_under_the_same_settings_is_training_on(make_spec, make_elder, settings):
    """Kills: anything that does not go over (moments, sums of the log, steered numbers, steps of lazy terms, the average)."""
    child = adopt(make_spec("child", **settings, train__total_images=1280), make_elder(**settings))
    train(child)
    whole = make_spec("whole", **settings, train__total_images=1280)
    train(whole)
    found, expected = parts_of(child.folder), parts_of(whole.folder)
    assert found.pop("candidates") != expected.pop("candidates")  # a child chooses among its own: those before are its parent's
    assert found == expected


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["continue", "start"])
def test_one_process_two_and_an_interrupted_one_end_in_the_same_bytes(make_spec, make_elder, kind):
    """Kills: processes that begin with different weights or moments; a resume that takes the parent again, or needs it."""
    freeze = {"train__freeze": {"discriminator": ["features.0.*"], "generator": ["layers.0.*"]}}
    settings = CHANGED if kind == "continue" else CHANGED | freeze
    elder = make_elder(**STEERED)
    alone, shared, parts = (adopt(make_spec(name, **settings), elder, kind) for name in ("alone", "shared", "parts"))
    train(alone)
    torchrun([shared], 2)
    assert parts_of(shared.folder) == parts_of(alone.folder)
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: True)
    shutil.rmtree(elder.folder)
    open_storage(parts.folder).remove(FOLDER)  # its own state is all that a training needs once it has one
    train(parts)
    assert parts_of(parts.folder) == parts_of(alone.folder)
    assert newest(alone.folder).images_seen == 1280
    if kind == "start":
        first = parent.read_weights(open_storage(alone.folder), FOLDER)
        ours = newest(alone.folder).tensors
        kept = [name for name in ours if name.startswith(("discriminator.features.0.", "generator.layers.0."))]
        assert kept
        assert all(torch.equal(ours[name], first[name]) for name in kept)


def test_what_goes_over_and_what_the_new_settings_decide(make_spec, make_elder):
    """Kills: the parent's learning rate or betas kept by its optimizer's state; a dropped term that is missed; a new one that is not there."""
    elder = make_elder(**STEERED)
    child = adopt(make_spec("child", **CHANGED), elder)
    running = Running.start(child)
    running.restore(parent.origin(open_storage(child.folder), child.parent))
    state, before = running.state, newest(elder.folder)
    assert (state.step, state.images_seen) == (before.numbers["step"], 640)
    group = state.optimizers["discriminator"].param_groups[0]
    assert group["base_lr"] == pytest.approx(3e-4 * 2 / 3)  # a lazy term every 2 steps
    assert group["betas"] == (0.0 ** (2 / 3), 0.9 ** (2 / 3))
    moments = state.optimizers["discriminator"].state[group["params"][0]]
    assert torch.equal(moments["exp_avg_sq"], before.tensors["optimizer.discriminator.0.exp_avg_sq"])
    steering, theirs = state.steering.numbers(), before.numbers["steering"]
    assert steering == {"ada": theirs["ada"], "instance_noise": {"images_seen": 0.0}}
    assert theirs["lecam"]["mean_real"] != 0
    assert theirs["ada"]["p"] not in (0.5, 0.1)
    set_learning_rates(state, child.optim, child.train)
    assert group["lr"] == pytest.approx(group["base_lr"] / 2)  # half of 1280 images, falling linearly
    assert state.ema.halflife_images == 500


@pytest.mark.parametrize("lr", [0.1, 0.3])
def test_a_learning_rate_takes_effect_with_the_first_step(make_spec, make_elder, lr):
    """By hand: SGD moves the weights by lr * |gradient|, and the bounded gradient is 1e-3 long."""
    sgd = {"name": "sgd", "lr": 0.05, "max_gradient_norm": 1e-3}
    elder = make_elder(**PLAIN, optim__generator=sgd, optim__discriminator=sgd)
    faster = sgd | {"lr": lr}
    child = make_spec("child", **PLAIN, optim__generator=faster, optim__discriminator=faster, train__total_images=672)
    train(adopt(child, elder))
    before, after = newest(elder.folder).tensors, newest(child.folder).tensors
    moved = torch.cat([(after[name] - before[name]).flatten().double() for name in after if name.startswith("discriminator.")])
    assert moved.norm().item() == pytest.approx(lr * 1e-3, rel=1e-2)


def test_a_momentum_that_is_new_starts_at_zero(make_spec, make_elder):
    """Kills: torch's RMSprop, which misses the momentum that it did not make with its first step."""
    plain = {"name": "rmsprop", "lr": 1e-4}
    elder = make_elder(**PLAIN, optim__discriminator=plain)
    child = make_spec("child", **PLAIN, optim__discriminator=plain | {"options": {"momentum": 0.9}}, train__total_images=704)
    train(adopt(child, elder))
    assert newest(child.folder).tensors["optimizer.discriminator.0.momentum_buffer"].abs().max() > 0


def test_a_divergence_before_the_first_boundary_goes_back_to_where_the_parent_stood(make_spec, make_elder):
    """Kills: a rollback that finds nothing of its own and gives up, or goes back to step 0."""
    wild = {
        **PLAIN,
        "task__loss": "least_squares",
        "train__precision": "fp32",
        "train__on_divergence": "rollback",
        "train__rollback_lr_factor": 1e-12,
        "train__grid_interval_images": 1000,
    }
    calm, mad = {"name": "sgd", "lr": 1e-3}, {"name": "sgd", "lr": 1e12}
    elder = make_elder(**wild, optim__discriminator=calm)
    child = adopt(make_spec("child", **wild, optim__discriminator=mad, train__total_images=1280), elder)
    train(child)
    records = newest(child.folder).numbers["rollbacks"]
    assert [record["to_images"] for record in records] == [640]
    assert records[0]["from_images"] < 1000
    parts = adopt(make_spec("parts", **wild, optim__discriminator=mad, train__total_images=1280), elder)
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: True)
    train(parts)
    assert parts_of(parts.folder) == parts_of(child.folder)


def test_a_start_takes_the_average_and_nothing_else_of_the_training(make_spec, make_elder):
    """Kills: the generator's own weights in place of its average; an average that begins elsewhere; moments or steps that go over."""
    elder = make_elder(**STEERED)
    child = adopt(make_spec("child", **STEERED), elder, "start")
    running = Running.start(child)
    parent.start(running.state, parent.read_weights(open_storage(child.folder), FOLDER))
    theirs, (ours, numbers) = newest(elder.folder).tensors, running.state.snapshot()
    assert (numbers["step"], numbers["images_seen"], numbers["rollbacks"]) == (0, 0, [])
    assert not any(name.startswith("optimizer.") for name in ours)
    for name, value in ours.items():
        part, _, rest = name.partition(".")
        if part != "scalars":
            assert torch.equal(value, theirs[name if part == "discriminator" else f"ema.{rest}"]), name
    assert not torch.equal(theirs["generator.layers.0.weight"], theirs["ema.layers.0.weight"])
    assert numbers["steering"]["ada"]["p"] == 0.5


def test_layers_that_do_not_fit_stay_as_they_are_initialised(make_spec, make_elder):
    """Classes are new: the layers that read them have other shapes or are not in the parent. They are listed, the rest is taken."""
    elder = make_elder(**PLAIN)
    settings = {**PLAIN, "model__conditional": True}
    child = adopt(make_spec("child", **settings), elder, "start")
    running, fresh = Running.start(child), Running.start(make_spec("fresh", **settings))
    weights = parent.read_weights(open_storage(child.folder), FOLDER)
    found = parent.fits(weights, {name: running.state.networks[name] for name in running.state.networks})
    parent.start(running.state, weights)
    for name in running.state.networks:
        ours, theirs = running.state.networks[name].state_dict(), fresh.state.networks[name].state_dict()
        assert found[name].fresh, name
        assert set(found[name].taken) | set(found[name].fresh) == set(ours)
        for key in ours:
            expected = weights[f"{name}.{key}"] if key in found[name].taken else theirs[key]
            assert torch.equal(ours[key], expected), (name, key)
    averaged, generator = running.state.ema.module.state_dict(), running.state.networks["generator"].state_dict()
    assert all(torch.equal(averaged[key], generator[key]) for key in generator)


def test_a_damaged_parent_is_named(make_spec, make_elder):
    child = adopt(make_spec("child", **PLAIN, train__total_images=1280), make_elder(**PLAIN))
    open_storage(child.folder).write(f"{FOLDER}/state.json", b"{}")
    with pytest.raises(ValueError, match=r"child/parent/state.json does not match its checksum"):
        train(child)


def test_digests_tell_content_and_no_clock(make_spec, make_elder):
    """The same training, run twice, has one digest; one step more has another."""
    elder, twin, longer = make_elder(**PLAIN), make_spec("twin", **PLAIN), make_spec("longer", **PLAIN, train__total_images=672)
    train(twin)
    train(longer)
    bundles = [newest(spec.folder) for spec in (elder, twin, longer)]
    assert bundles[0].history != bundles[1].history  # clocks
    first, second, third = map(parent.bundle_digest, bundles)
    assert first == second != third
    first, second, third = (parent.weights_digest(parent.weights_of(bundle)) for bundle in bundles)
    assert first == second != third
    assert steering_of(elder.folder) == {}
