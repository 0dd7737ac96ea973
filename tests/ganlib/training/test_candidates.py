"""Candidates for export: which there are, what is in them, and that a disk which fills up loses none."""

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
    assert not torch.equal(found["generator.project.weight"], bundle.tensors["generator.project.weight"])


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
    asked = iter([False, True, *[False] * 1000])
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
