"""Growth: what is inherited, what is shown, and that nobody can tell where a training was interrupted."""

import pytest
import torch
from parts import parts_of

from ganlib.storage import open_storage
from ganlib.tasks.progressive import Fade, ProgressiveOptions, Schedule
from ganlib.training.hooks import AgreeHook
from ganlib.training.loop import Interrupted, Running, train
from ganlib.training.state import BundleStore

GROWING = {
    "model__name": "progressive",
    "model__discriminator": {"width": 8},
    "task__name": "progressive",
    "task__options": {"stable_images": 96, "fade_images": 320},
    "train__total_images": 640,
}


def test_the_schedule_shares_the_images_out():
    even = Schedule.of(ProgressiveOptions(), levels=2, total_images=500)
    assert [even.starts(level) for level in range(3)] == [0, 100, 300]
    assert [even.alpha(1, seen) for seen in (100, 150, 200, 290)] == [0, 0.5, 1, 1]
    assert even.alpha(0, 3) == 1.0
    with pytest.raises(ValueError, match=r"total_images=500 ends before the images have their full size.*need 900"):
        Schedule.of(ProgressiveOptions(stable_images=300, fade_images=150), levels=2, total_images=500)


def test_real_images_are_shown_at_the_size_of_the_level():
    fade = Fade([], Schedule(stable=100, fade=100, levels=1), level=1)
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    blocks = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    fade.before_step(100)
    assert torch.equal(fade.present(images)[0, 0], blocks.repeat_interleave(2, 0).repeat_interleave(2, 1))
    fade.before_step(150)
    torch.testing.assert_close(fade.present(images)[0, 0, 0, 0], torch.tensor(1.25))
    fade.before_step(200)
    assert torch.equal(fade.present(images), images)
    assert torch.equal(Fade([], fade.schedule, level=0).present(images)[0, 0], blocks)


def test_a_level_inherits_what_the_one_before_has_learnt(make_spec):
    running = Running.start(make_spec("grows", **GROWING))
    state = running.state
    while state.images_seen < 96:
        running.step()
    before = {name: state.networks[name].state_dict() for name in state.networks} | {"ema": state.ema.module.state_dict()}
    before = {name: {key: value.clone() for key, value in weights.items()} for name, weights in before.items()}
    assert running.play.ends_at_images == 96
    seen = []
    original = running._inherit

    def spy(*arguments):
        original(*arguments)
        after = {name: state.networks[name].state_dict() for name in state.networks} | {"ema": state.ema.module.state_dict()}
        seen.append({name: {key: value.clone() for key, value in weights.items()} for name, weights in after.items()})
        assert all(not optimizer.state for optimizer in state.optimizers.values())

    running._inherit = spy
    running.step()
    (after,) = seen
    assert state.stage == 1
    for name, weights in before.items():
        assert len(after[name]) > len(weights)
        assert all(torch.equal(after[name][key], value) for key, value in weights.items()), name
    new = set(after["generator"]) - set(before["generator"])
    assert all(torch.equal(after["ema"][key], after["generator"][key]) for key in new)  # the average starts at the new weights


@pytest.mark.parametrize("steps", [3, 8], ids=["where a level ends", "in a fade"])
def test_an_interruption_changes_nothing(make_spec, monkeypatch, steps):
    whole = make_spec("whole", **GROWING)
    train(whole)
    parts = make_spec("parts", **GROWING)
    monkeypatch.setattr(AgreeHook, "FIRST_STEPS", steps)
    asked = iter([True, *[False] * 1000])
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: next(asked))
    (checkpoint,) = BundleStore(open_storage(parts.folder), keep=1).steps()[-1:]
    assert checkpoint == steps
    train(parts)
    assert parts_of(parts.folder) == parts_of(whole.folder)
