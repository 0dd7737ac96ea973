"""Candidates for export: which there are, what is in them, and that a disk which fills up loses none."""

import contextlib
import threading
import time

import pytest
import torch
from parts import parts_of

from ganlib.storage import open_storage
from ganlib.training import candidates
from ganlib.training.loop import Interrupted, train
from ganlib.training.parent import read_weights, weights_of
from ganlib.training.state import BundleStore

CONSTANT = {"optim__decay": "none", "train__total_images": 640}


def present(spec):
    return candidates.present(open_storage(spec.folder))


def test_there_is_one_at_each_multiple_and_one_at_the_end(make_spec):
    """Kills: an interval in steps; candidates only where checkpoints are (160); none at the end."""
    spec = make_spec("a", **CONSTANT)
    train(spec)
    assert present(spec) == [192, 384, 576, 640]
    off = make_spec("off", train__select=None, **CONSTANT)
    train(off)
    assert present(off) == []
    rest = {name: value for name, value in parts_of(spec.folder).items() if name != "candidates"}
    assert rest == {name: value for name, value in parts_of(off.folder).items() if name != "candidates"}


def test_one_holds_what_a_training_that_ended_there_would_deliver(make_spec):
    """Kills: the generator as it is trained in place of its average; a copy that goes on changing."""
    whole = make_spec("whole", **CONSTANT)
    train(whole)
    short = make_spec("short", **{**CONSTANT, "train__total_images": 384})
    train(short)
    bundle, _ = BundleStore(open_storage(short.folder), keep=1).newest()
    expected, found = weights_of(bundle), read_weights(open_storage(whole.folder), candidates.name(384))
    assert expected.keys() == found.keys()
    differ = {name for name, value in expected.items() if not torch.equal(found[name], value)}
    assert {name.rpartition(".")[2] for name in differ} <= {"running_mean", "running_var"}  # measured when it is scored and exported
    trained = [name for name in found if name.startswith("generator.") and name.endswith("weight")]
    assert trained
    assert not any(torch.equal(found[name], bundle.tensors[name]) for name in trained)  # an average is something else


def test_a_candidate_that_cannot_be_written_holds_the_checkpoint_back(make_spec, tmp_path):
    """Kills: a checkpoint beyond a candidate that is lost, after which nobody would make it again."""
    spec = make_spec("full", **CONSTANT)
    in_the_way = tmp_path / "full" / candidates.FOLDER
    in_the_way.write_text("no folder can be made here")
    with pytest.raises(OSError, match="candidates"):
        train(spec)
    steps = BundleStore(open_storage(spec.folder), keep=9).steps()
    assert steps
    assert max(steps) * 32 < 192
    in_the_way.unlink()
    train(spec)
    whole = make_spec("whole", **CONSTANT)
    train(whole)
    assert parts_of(spec.folder) == parts_of(whole.folder)


def test_an_interrupted_training_has_all_of_them_in_the_end(make_spec):
    """Kills: candidates only of the last attempt."""
    spec = make_spec("stopped", **CONSTANT)
    asked = iter([True, *[False] * 1000])
    with pytest.raises(Interrupted):
        train(spec, should_stop=lambda: next(asked))
    train(spec)
    assert present(spec) == [192, 384, 576, 640]


def test_none_is_of_a_smaller_size(make_spec):
    """Kills: candidates of a stage whose networks make other images."""
    growing = {
        "model__name": "progressive",
        "task__name": "progressive",
        "task__options": {"stable_images": 96, "fade_images": 320},
    }
    spec = make_spec("growing", **growing)
    train(spec)
    assert present(spec) == [192, 384, 576, 640]  # at 96 images it has its full size
    late = make_spec("late", **{**growing, "task__options": {"stable_images": 224, "fade_images": 320}})
    train(late)
    assert present(late) == [384, 576, 640]


STOPPING = {**CONSTANT, "train__stop": {"patience_images": 192}}


@contextlib.contextmanager
def judging(spec, *, ends_at, waits_for=lambda: True):
    """Somebody who gives verdicts on candidates as they appear: the training ends at `ends_at`."""
    storage, is_over = open_storage(spec.folder), threading.Event()

    def judge():
        while not is_over.wait(0.01):
            for images_seen in candidates.present(storage) if waits_for() else []:
                if candidates.read_verdict(storage, images_seen) is None:
                    with contextlib.suppress(FileNotFoundError):  # just being replaced
                        sha256 = candidates.sha256(storage, images_seen)
                        candidates.write_verdict(storage, images_seen, candidate=sha256, stop=images_seen >= ends_at)

    thread = threading.Thread(target=judge)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def end_of(spec):
    bundle, _ = BundleStore(open_storage(spec.folder), keep=1).newest()
    return bundle


def test_a_training_ends_at_the_verdict_and_stays_ended(make_spec):
    """Kills: a stop that the bundle does not know of; steps beyond the candidate that nobody judged."""
    spec = make_spec("ended", **STOPPING)
    with judging(spec, ends_at=384):
        train(spec, is_judged=True)
    bundle, parts = end_of(spec), parts_of(spec.folder)
    assert (bundle.images_seen, bundle.is_end_of(640), bundle.is_end_of(384)) == (384, True, True)
    assert present(spec) == [192, 384]
    assert bundle.history[-1]["images_seen"] == 384
    state = train(spec, is_judged=True)  # nobody to ask, and nothing to do
    assert state.images_seen == 384
    assert parts_of(spec.folder) == parts


def test_an_interruption_while_it_waits_for_a_verdict_changes_nothing(make_spec):
    """Kills: steps without a verdict; a resume that does not ask again; losses logged twice or not at all."""
    whole = make_spec("whole", **STOPPING)
    with judging(whole, ends_at=384):
        train(whole, is_judged=True)
    parts = make_spec("parts", **STOPPING)
    asked_at = []

    def should_stop():
        made = present(parts)
        if made == [192, 384]:  # it waits for the second verdict, or is about to
            asked_at.append(time.monotonic())
        return len(asked_at) > 3

    with judging(parts, ends_at=999, waits_for=lambda: present(parts) == [192]), pytest.raises(Interrupted):
        train(parts, should_stop=should_stop, is_judged=True)
    assert end_of(parts).images_seen == 384
    assert not end_of(parts).is_end_of(640)
    with judging(parts, ends_at=384):
        train(parts, is_judged=True)
    assert parts_of(parts.folder) == parts_of(whole.folder)
    histories = [[(line["step"], line["scalars"]) for line in end_of(spec).history] for spec in (parts, whole)]
    assert histories[0] == histories[1]


def test_a_verdict_on_other_weights_is_none(make_spec):
    """Kills: believing what was said before a rollback."""
    spec = make_spec("other", **CONSTANT)
    train(spec)
    storage = open_storage(spec.folder)
    candidates.write_verdict(storage, 384, candidate="0" * 64, stop=True)
    assert candidates.read_verdict(storage, 384) is None
    candidates.write_verdict(storage, 384, candidate=candidates.sha256(storage, 384), stop=True)
    assert candidates.read_verdict(storage, 384) is True


def test_without_anybody_who_judges_it_does_not_begin(make_spec):
    with pytest.raises(ValueError, match=r"train.stop waits for verdicts .* set train.stop: null"):
        train(make_spec("alone", **STOPPING))
