"""Numbers that follow images seen in a training: what the log says, and that neither growth, a rollback nor a parent leaves an old one behind."""

import pytest
from parts import parts_of
from test_parent import adopt, newest
from test_progressive import GROWING

from ganlib.storage import open_storage
from ganlib.training import parent
from ganlib.training.loop import Running, train

NO_NORM = {"model__discriminator": {"width": 8, "normalization": "none"}}
PLAIN_ADAM = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.99]}}
SCHEDULES = {  # over 640 images, 32 a step
    "task__regularizers": {"r1": {"gamma": {"schedule": "linear", "from": 1.0, "to": 0.0}}},
    "optim__generator": {
        "name": "adam",
        "lr": {"schedule": "linear", "from": 0.0, "to": 1e-3},
        "options": {"betas": [0.5, {"schedule": "linear", "from": 0.9, "to": 0.99}]},
    },
    "train__ema_halflife_images": {"schedule": "linear", "from": 0, "to": 16},
}


def test_the_log_has_what_each_step_was_made_with(make_spec):
    """By hand. Mutants: the numbers of the images after the step; a rate of 0 that the factor is divided by; plain numbers in the log."""
    spec = make_spec("logged", **NO_NORM, **SCHEDULES, train__history_interval_images=1, train__total_images=320, optim__warmup_images=128)
    train(spec)
    history = newest(spec.folder).history
    assert [line["images_seen"] for line in history] == list(range(32, 321, 32))
    for line in history:
        share = (line["images_seen"] - 32) / 320
        found = {name: value for name, value in line["scalars"].items() if not name.startswith(("loss_", "logit_", "penalty_"))}
        assert found == pytest.approx(
            {
                "r1_gamma": 1 - share,
                "generator_lr": 1e-3 * share,
                "generator_beta2": 0.9 + 0.09 * share,
                "ema_halflife_images": 16 * share,
                "lr_factor": min(1, (line["images_seen"] - 32 + 1) / 128),
            }
        )


def test_a_level_begins_where_the_schedules_are(make_spec):
    """Kills: growth that begins with the first number, which its new optimizers, terms and average are built with."""
    running = Running.start(make_spec("grows", **GROWING, **SCHEDULES))
    state = running.state
    while state.stage == 0:
        running.step()
    share = (state.images_seen - 32) / 640
    (group,) = state.optimizers["generator"].param_groups
    assert group["lr"] == pytest.approx(1e-3 * share)
    assert group["betas"] == pytest.approx((0.5, 0.9 + 0.09 * share))
    assert state.steering["r1"].gamma == pytest.approx(1 - share)
    assert state.ema.halflife_images == pytest.approx(16 * share)
    assert share > 0


def test_a_rollback_lowers_a_scheduled_rate_once(make_spec):
    running = Running.start(make_spec("fell", **NO_NORM, **SCHEDULES, train__rollback_lr_factor=0.5))
    running.state.rollbacks = [{}, {}]
    running.state.images_seen = 320
    for images in (320, 352):
        assert running.state.images_seen == images
        running.step()
        for name, lr in (("generator", 1e-3 * images / 640), ("discriminator", 1e-3)):
            assert running.state.optimizers[name].param_groups[0]["lr"] == pytest.approx(0.25 * lr)


@pytest.mark.parametrize("child_has", [True, False], ids=["to schedules", "from schedules"])
def test_a_training_that_goes_on_has_its_own_schedules(make_spec, child_has):
    """Kills: a parent's rate, betas, gamma or half-life kept by what it left."""
    with_them, without = {**NO_NORM, **SCHEDULES}, {**NO_NORM, "task__regularizers": {"r1": {"gamma": 0.7}}}
    elder = make_spec("elder", **(without if child_has else with_them), train__total_images=96)
    train(elder)
    child = adopt(make_spec("child", **(with_them if child_has else without)), elder)
    running = Running.start(child)
    running.restore(parent.origin(open_storage(child.folder), child.parent))
    state = running.state
    assert state.images_seen == 96
    running.step()
    (group,) = state.optimizers["generator"].param_groups
    share = 96 / 640
    expected = (1e-3 * share, 0.9 + 0.09 * share, 1 - share, 16 * share) if child_has else (1e-3, 0.99, 0.7, 200)
    assert (group["lr"], group["betas"][1], state.steering["r1"].gamma, state.ema.halflife_images) == pytest.approx(expected)


def test_a_constant_is_the_number_itself(make_spec):
    """The same bytes, but for what an optimizer's own entry says: `lazy`. Kills: another order of multiplication where a number is scheduled."""
    plain = {
        "task__regularizers": {"r1": {"gamma": 0.3, "interval_steps": 4}},
        "optim__generator": PLAIN_ADAM,
        "train__ema_halflife_images": 30,
    }
    constant = {
        "task__regularizers": {"r1": {"gamma": {"schedule": "constant", "from": 0.3}, "interval_steps": 4}},
        "optim__generator": PLAIN_ADAM | {"lr": {"schedule": "constant", "from": 1e-3}},
        "train__ema_halflife_images": {"schedule": "constant", "from": 30},
    }
    found = []
    for name, settings in (("plain", plain), ("constant", constant)):
        spec = make_spec(name, **NO_NORM, **settings, train__total_images=320)
        train(spec)
        found.append(parts_of(spec.folder))
    tensors = [{part: digest for part, digest in parts.items() if part != "losses"} for parts in found]  # the log names what is scheduled
    assert tensors[0] == tensors[1]
