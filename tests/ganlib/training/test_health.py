"""Health while a training runs: its numbers against independent ones, what raises an alarm and what does not, and that it moves nothing."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from parts import parts_of
from scipy.stats import mannwhitneyu

from ganlib import sampling
from ganlib.alarms import AVERAGED, AlarmsConfig, raised
from ganlib.data.arrow import ArrowWriter
from ganlib.storage import open_storage
from ganlib.train_settings import TrainConfig
from ganlib.training import health
from ganlib.training.journal import EVENTS, HEALTH, Background, Journal, parse_lines
from ganlib.training.loop import Interrupted, Running, train
from ganlib.training.state import BundleStore
from ganlib.training.step import AlarmError, DivergenceError

LATENTS = sampling.latents


def images(count: int, *, seed: int, size: int = 8) -> np.ndarray:
    """[count, 1, size, size] uint8: a bright square somewhere, on dim noise."""
    draw = np.random.default_rng(seed)
    found = draw.integers(0, 60, (count, 1, size, size), dtype=np.uint8)
    for image, (y, x) in zip(found, draw.integers(0, size - 3, (count, 2)), strict=True):
        image[0, y : y + 4, x : x + 4] += 150
    return found


@pytest.fixture(scope="session")
def plenty(tmp_path_factory):
    """plenty(count) -> a folder with that many training images, and 256 held-out ones of the same kind."""
    made = {}

    def make(count: int) -> Path:
        if count not in made:
            made[count] = tmp_path_factory.mktemp(f"images{count}")
            for split, n, seed in (("train", count, 1), ("val", 256, 2)):
                with ArrowWriter(made[count] / f"{split}.arrow", shape=(1, 8, 8), class_names=["any"]) as writer:
                    writer.append(images(n, seed=seed), np.zeros(n, dtype=np.int64))
        return made[count]

    return make


def newest(spec):
    bundle, problems = BundleStore(open_storage(spec.folder), keep=1).newest()
    assert problems == []
    return bundle


def events(spec, kind):
    return [event for event in parse_lines(open_storage(spec.folder).read(EVENTS).decode()) if event["kind"] == kind]


def test_numbers_of_logits_against_slow_ones():
    """Accuracy against scipy's U statistic (ties too), the gap against its definition. Kills: ties that count whole, a pooled spread of one side."""
    draw = torch.Generator().manual_seed(0)
    real, held_out, fake = (
        torch.randn(count, generator=draw, dtype=torch.float64).round(decimals=1) + shift
        for count, shift in ((90, 1.0), (70, 0.2), (80, 0.0))
    )
    numbers = health.logit_numbers(real, held_out, fake)
    u = mannwhitneyu(real.numpy(), fake.numpy()).statistic
    assert numbers["discriminator_accuracy"] == pytest.approx(u / (90 * 80), abs=1e-12)
    deviation = np.sqrt((np.var(real.numpy(), ddof=1) + np.var(held_out.numpy(), ddof=1)) / 2)
    assert numbers["overfitting_gap"] == pytest.approx((real.numpy().mean() - held_out.numpy().mean()) / deviation, abs=1e-12)
    within = np.sqrt((np.var(real.numpy(), ddof=1) + np.var(fake.numpy(), ddof=1)) / 2)
    assert numbers["separation"] == pytest.approx((real.numpy().mean() - fake.numpy().mean()) / within, abs=1e-12)
    assert numbers["largest_logit"] == max(abs(float(value)) for value in torch.cat([real, held_out, fake]))
    assert (numbers["real_logits"], numbers["held_out_logits"], numbers["fake_logits"]) == tuple(
        float(x.mean()) for x in (real, held_out, fake)
    )
    assert {"held_out_logits", "overfitting_gap"} & health.logit_numbers(real, None, fake).keys() == set()


def test_diversity_is_the_distance_to_the_nearest():
    """Against all pairs, slowly; a few images again and again have none. Kills: a variance; an image that is its own nearest."""
    draw = torch.Generator().manual_seed(0)
    fake, real = torch.randn(12, 1, 3, 2, generator=draw).double(), 3 * torch.randn(9, 1, 3, 2, generator=draw).double()

    def distance(x):
        return np.mean([min(float((x[i] - x[j]).square().sum().sqrt()) for j in range(len(x)) if j != i) for i in range(len(x))])

    assert health.diversity(fake, real) == pytest.approx(distance(fake) / distance(real), rel=1e-9)
    assert health.diversity(real, real) == 1
    assert health.diversity(torch.zeros(5, 1, 2, 2), real) == 0
    assert health.diversity(real[[0, 1, 2, 0, 1, 2]], real) == pytest.approx(0, abs=1e-6)


def test_what_is_not_finite_is_left_out_and_raises_divergence():
    """JSON knows no NaN. Kills: a NaN that compares as false and raises nothing."""
    values = health.finite({"real_logits": float("nan"), "largest_logit": float("inf"), "diversity": 1.0})
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values.keys() == {"largest_logit", "diversity"}
    lines = [{"images_seen": 10, "values": values}]
    assert [each.name for each in raised(AlarmsConfig(), lines, on_divergence="stop", averaged="generator")] == ["divergence"]


def lines_of(column, values, interval=10):
    return [{"images_seen": interval * (index + 1), "values": {column: value}} for index, value in enumerate(values)]


def when(column, values, config=None):
    """Images seen at which each alarm is raised, by its name."""
    lines, found = lines_of(column, values), []
    for count in range(1, len(lines) + 1):
        found += [
            (each.name, each.images_seen)
            for each in raised(config or AlarmsConfig(), lines[:count], on_divergence="stop", averaged="generator")
        ]
    return found


def test_an_alarm_wants_measurements_in_a_row_and_is_raised_once():
    """Kills: any of the last three; raised at every line; never raised again; `<=` for `<`."""
    assert when("diversity", [0.1, 0.1, 0.3, 0.1, 0.1]) == []
    assert when("diversity", [0.1, 0.1, 0.1, 0.1, 0.1]) == [("mode_collapse", 30)]
    assert when("diversity", [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]) == [("mode_collapse", 30), ("mode_collapse", 70)]
    assert when("diversity", [0.2] * 5) == []
    assert when("overfitting_gap", [1.1, 1.1]) == [("overfitting", 20)]
    assert when("largest_logit", [9e3, 1.1e4]) == [("divergence", 20)]
    assert when("weight_growth", [9.0, 11.0]) == [("divergence", 20)]
    assert when("separation", [-11.0] * 6) == [("generator_wins", 50)]
    assert when("separation", [16.0] * 6) == [("discriminator_wins", 30)]
    assert when("update_norm_generator", [0.0] * 4) == [("stalled", 30)]
    strict = AlarmsConfig.model_validate({"mode_collapse": {"threshold": 0.5, "measurements": 1}})
    assert when("diversity", [0.6, 0.4], strict) == [("mode_collapse", 20)]


def test_networks_that_are_not_trained_yet_raise_nothing():
    lines = [{"images_seen": images, "values": {"diversity": 0.0}} for images in (0, 10, 20)]
    assert raised(AlarmsConfig(), lines, on_divergence="stop", averaged="generator") == []
    lines.append({"images_seen": 30, "values": {"diversity": 0.0}})
    assert [each.name for each in raised(AlarmsConfig(), lines, on_divergence="stop", averaged="generator")] == ["mode_collapse"]


def test_causes_come_before_what_follows_from_them():
    values = {"largest_logit": 1e9, "diversity": 0.0, "update_norm_generator": 0.0, "overfitting_gap": 9.0, "separation": 20.0}
    lines = [{"images_seen": 10 * n, "values": values} for n in (1, 2, 3)]
    config = AlarmsConfig.model_validate({name: {"measurements": 3} for name in AlarmsConfig.model_fields})
    found = raised(config, lines, on_divergence="rollback", averaged="generator")
    assert [each.name for each in found] == ["divergence", "mode_collapse", "stalled", "overfitting", "discriminator_wins"]
    assert [each.action for each in found] == ["rollback", "warn", "warn", "warn", "warn"]


def test_every_alarm_tells_its_value_its_threshold_and_what_to_do():
    for name, alarm in AlarmsConfig().by_name().items():
        bound = alarm.bounds[0].of("generator")
        value = alarm.threshold - 0.5 if bound.is_low else alarm.threshold + 0.5
        lines = lines_of(bound.column, [value] * alarm.measurements)
        (found,) = raised(AlarmsConfig(), lines, on_divergence="stop", averaged="generator")
        text = found.in_words()
        assert f"alarm {name} after {10 * alarm.measurements} images: {bound.column} is {value:.4g}" in text
        assert f"{alarm.threshold:g}" in text
        assert alarm.meaning in text
        assert f"Try: {alarm.remedy.replace(AVERAGED, 'generator')}" in text
        assert AVERAGED not in text
        assert set(found.record()) == {"name", "images_seen", "column", "value", "threshold", "action", "meaning"}


def test_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="health_interval_images, or the action to warn"):
        TrainConfig.model_validate({"total_images": 1, "health_interval_images": 0, "alarms": {"stalled": {"action": "stop"}}})
    with pytest.raises(ValueError, match="mode_colapse"):
        TrainConfig.model_validate({"total_images": 1, "alarms": {"mode_colapse": {}}})
    assert TrainConfig.model_validate({"total_images": 1, "health_interval_images": None}).health_interval_images is None


EVERYTHING_THAT_COULD_MOVE = {
    "model__name": "biggan",
    "model__conditional": True,
    "model__discriminator": {"width": 8},
    "model__generator": {"width": 8},
    "task__augment": {"ada": {"p": 0.5, "speed_images": 2000}, "instance_noise": {"anneal_images": 400}},
    "task__gradient_normalization": True,
}
DROPS = {"model__generator": {"width": 8, "dropout": 0.3}, "model__discriminator": {"width": 8, "dropout": 0.3, "minibatch_stddev": True}}


@pytest.mark.parametrize("settings", [EVERYTHING_THAT_COULD_MOVE, DROPS], ids=["everything", "dropout"])
def test_a_measurement_moves_nothing_and_is_the_same_again(make_spec, settings):
    """Kills: a forward that advances spectral norm, a layer left in evaluation mode, a draw from the global generator, gradients left behind."""
    running = Running.start(make_spec("x", **settings))
    running.step()
    state, background = running.state, Background()
    hook = health.HealthHook(
        running.spec.train,
        play=lambda: running.play,
        train=running.batches.of(running.batches.images),
        held_out=running.held_out(),
        journal=Journal(open_storage(running.spec.folder), background),
    )

    def everything():
        tensors, numbers = state.snapshot()
        modes = [module.training for name in state.networks for module in state.networks[name].modules()]
        gradients = [None if p.grad is None else p.grad.clone() for name in state.networks for p in state.networks[name].parameters()]
        return tensors, numbers, modes, gradients, torch.get_rng_state()

    before = everything()
    hook._look(state)
    assert state.health[0]["values"].keys() >= {
        "held_out_logits",
        "overfitting_gap",
        "gradient_norm_generator",
        "weight_norm_discriminator",
    }
    (measured,), state.health = state.health, []
    after = everything()
    hook._look(state)
    background.close()
    assert state.health[0]["values"] == measured["values"]
    assert before[1] == after[1]
    assert before[2] == after[2]
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert all(a is b or torch.equal(a, b) for a, b in zip(before[3], after[3], strict=True))
    assert torch.equal(before[4], after[4])


def test_weights_do_not_depend_on_what_is_measured(make_spec):
    """Kills: any trace of a measurement in what is trained."""
    found = []
    for name, interval in (("never", 0), ("seldom", 320), ("often", 96)):
        spec = make_spec(name, train__health_interval_images=interval)
        train(spec)
        found.append({part: digest for part, digest in parts_of(spec.folder).items() if part != "health"})
        assert len(newest(spec).numbers["health"]) == {"never": 0, "seldom": 3, "often": 8}[name]
    assert found[0] == found[1] == found[2]


def test_norms_are_those_of_the_step(make_spec):
    """The update's against weights before and after, the gradient's against SGD's own arithmetic. Kills: a norm after clipping or of another step."""
    sgd = {"name": "sgd", "lr": 0.5, "max_gradient_norm": 1e-3}
    spec = make_spec(
        "x", optim__generator={"name": "sgd", "lr": 0.25}, optim__discriminator=sgd, train__total_images=32, train__precision="fp32"
    )
    start = {
        name: [p.detach().clone() for p in Running.start(spec).state.networks[name].parameters()] for name in ("generator", "discriminator")
    }
    state = train(spec)
    values = state.health[-1]["values"]
    moved = {
        name: torch.cat([(p.detach() - b).flatten() for p, b in zip(state.networks[name].parameters(), start[name], strict=True)])
        .double()
        .norm()
        for name in start
    }
    weights = {name: torch.cat([b.flatten() for b in start[name]]).double().norm() for name in start}
    for name in start:
        assert values[f"update_norm_{name}"] == pytest.approx(float(moved[name] / weights[name]), rel=1e-4)
    assert values["gradient_norm_generator"] == pytest.approx(float(moved["generator"]) / 0.25, rel=1e-3)
    assert float(moved["discriminator"]) / 0.5 == pytest.approx(1e-3, rel=1e-3)  # clipped
    assert values["gradient_norm_discriminator"] > 1e-2  # before that


def test_lines_are_the_same_after_an_interruption_and_in_the_live_file(make_spec):
    """Kills: a line lost or doubled by a resume."""
    settings = {"train__total_images": 1600, "train__health_interval_images": 224}
    whole, parts = make_spec("whole", **settings), make_spec("parts", **settings)
    train(whole)
    asked = iter([True, *[False] * 1000])
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: next(asked))
    train(parts)
    plain = [
        [{**line, "time": 0, "images_per_second": 0, "memory_bytes": 0} for line in newest(spec).numbers["health"]]
        for spec in (whole, parts)
    ]
    assert plain[0] == plain[1]
    assert [line["images_seen"] for line in plain[0]] == [0, *range(224, 1600, 224), 1600]
    live = parse_lines(open_storage(parts.folder).read(HEALTH).decode())
    assert [line["values"] for line in live] == [line["values"] for line in plain[0]]


def test_without_held_out_images_their_numbers_are_left_out(make_spec):
    spec = make_spec("x", held_out=None)
    assert not {"held_out_logits", "overfitting_gap"} & train(spec).health[-1]["values"].keys()


# Bad trainings, each with the alarm that must come first; good ones raise none. All under the thresholds as they are by default.
def rate(lr):
    return {"name": "adam", "lr": lr, "options": {"betas": [0.0, 0.99]}}


GOOD = {
    "optim__generator": rate(3.2e-3),
    "optim__discriminator": rate(3.2e-3),
    "model__generator": {"width": 8},
    "model__discriminator": {"width": 8, "minibatch_stddev": True},
    "train__total_images": 3840,
    "train__health_interval_images": 640,
    "train__augment": {},
    "train__logical_workers": 1,
    "train__precision": "fp32",
    "train__alarms": {"divergence": {"action": "warn"}},
}
MLP = {"model__name": "mlp", "model__generator": {}, "model__discriminator": {}}
BAD = {
    "mode_collapse": {},  # latents that say nothing: see below
    "divergence": {f"optim__{name}": rate(0.32) for name in ("generator", "discriminator")},
    "discriminator_wins": {"task__discriminator_repeats": 8, "optim__generator": rate(1e-5), "train__health_interval_images": 1280}
    | {"train__total_images": 6400},
    "generator_wins": {"optim__discriminator": rate(1e-7), "model__generator": {"width": 24}, "train__total_images": 5120},
    "stalled": {"optim__generator": rate(1e-12)},
    "overfitting": MLP | {f"optim__{name}": rate(1e-3) for name in ("generator", "discriminator")},
}


def kinds(state):
    return [alarm["name"] for alarm in state.alarms]


@pytest.mark.parametrize("name", BAD)
def test_each_bad_training_raises_its_own_alarm_first(make_spec, plenty, monkeypatch, name):
    """A constant generator, a learning rate 100 times too high, D trained to optimality, D hardly trained, G not trained, too few images."""
    if name == "mode_collapse":
        monkeypatch.setattr(sampling, "latents", lambda *arguments: torch.zeros_like(LATENTS(*arguments)))
    folder = plenty(40 if name == "overfitting" else 4000)
    settings = {**GOOD, **BAD[name], "data": str(folder / "train.arrow"), "held_out": str(folder / "val.arrow")}
    state = train(make_spec("bad", **settings))
    assert kinds(state)[:1] == [name], [line["values"] for line in state.health]


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "least_squares"])
def test_good_trainings_raise_none(make_spec, plenty, loss):
    """Kills: a threshold that a healthy training passes."""
    folder = plenty(4000)
    state = train(make_spec("good", **GOOD, data=str(folder / "train.arrow"), held_out=str(folder / "val.arrow"), task__loss=loss))
    assert kinds(state) == [], [line["values"] for line in state.health]


def alarmed(make_spec, name, **settings):
    """A training whose diversity is called too low after 320 images, and after a rollback with another learning rate too."""
    chosen = {"train__health_interval_images": 160, "train__grid_interval_images": 160, **settings}
    return make_spec(name, **chosen)


def test_an_alarm_that_stops_ends_the_training_in_words(make_spec):
    """The same after a resume. Kills: a stop that only warns; a state that is called finished."""
    alarms = {"mode_collapse": {"action": "stop", "threshold": 100.0, "measurements": 2}}
    spec = alarmed(make_spec, "x", train__alarms=alarms)
    for _ in range(2):
        with pytest.raises(
            AlarmError, match=r"alarm mode_collapse after 320 images: diversity is [\d.]+, below 100 in 2 .*Try: lower optim.gen"
        ):
            train(spec)
    assert newest(spec).images_seen < 640
    told = events(spec, "alarm")
    assert [event["alarm"]["name"] for event in told] == ["mode_collapse"] * 2  # the second time it was computed again
    live = parse_lines(open_storage(spec.folder).read(HEALTH).decode())
    assert live[-1]["alarms"] == ["mode_collapse (320 images)"]


def test_an_alarm_that_rolls_back_is_the_divergences_way(make_spec):
    """Boundaries, at most max_rollbacks, and the same through an interruption. Kills: alarms that a rollback loses, lines that it keeps."""
    alarms = {"mode_collapse": {"action": "rollback", "threshold": 100.0, "measurements": 2}}
    settings = {"train__alarms": alarms, "train__max_rollbacks": 2}
    whole = alarmed(make_spec, "whole", **settings)
    with pytest.raises(DivergenceError, match=r"alarm mode_collapse .*2 rollbacks did not help \(train.max_rollbacks\)"):
        train(whole)
    assert [event["rollback"] for event in events(whole, "rollback")] == [1, 2]
    bundle = newest(whole)
    assert [(record["from_images"], record["to_images"]) for record in bundle.numbers["rollbacks"]] == [(320, 160), (320, 160)]
    assert [alarm["images_seen"] for alarm in bundle.numbers["alarms"]] == [320, 320]
    assert [line["images_seen"] for line in bundle.numbers["health"]] == [0, 160]
    parts = alarmed(make_spec, "parts", **settings, train__checkpoint_interval_images=64)
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: True)
    with pytest.raises(DivergenceError):
        train(parts)
    for key in ("alarms", "rollbacks"):
        assert newest(parts).numbers[key] == bundle.numbers[key]


def test_an_alarm_travels_between_processes_with_its_action():
    again = pickle.loads(pickle.dumps(AlarmError("text", "rollback")))
    assert (str(again), again.action) == ("text", "rollback")
    assert AlarmError("text").action == "stop"
    assert DivergenceError("text").action is None
