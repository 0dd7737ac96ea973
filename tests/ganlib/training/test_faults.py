"""What goes wrong while training, for real: full disks, stores that are away, divergence, hangs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from parts import parts_of

from ganlib import storage
from ganlib.storage import open_storage
from ganlib.training import hooks
from ganlib.training.journal import EVENTS, HISTORY, parse_lines
from ganlib.training.loop import Interrupted, train
from ganlib.training.state import BundleStore
from ganlib.training.step import DivergenceError, descend
from ganlib.training.watchdog import EXIT_CODE

ROOT = Path(__file__).resolve().parents[3]
# diverges after some steps at the first learning rate, and no more after two rollbacks
WILD = {
    "task__loss": "least_squares",
    "train__precision": "fp32",
    "train__on_divergence": "rollback",
    "train__grid_interval_images": 160,
    "model__discriminator": {"width": 8, "normalization": "none"},
}


def events(spec, *kinds):
    return [event for event in parse_lines(open_storage(spec.folder).read(EVENTS).decode()) if event["kind"] in kinds]


def lost_images(spec):
    """Images that were logged after the newest checkpoint that is whole, by the files of a training that is dead."""
    files = open_storage(spec.folder)
    live = files.read(HISTORY).decode() if HISTORY in files.names("") else ""
    bundle, _ = BundleStore(files, keep=1).newest()
    kept = bundle.history if bundle is not None else []
    logged, saved = (max((line["images_seen"] for line in lines), default=0) for lines in (parse_lines(live), kept))
    return max(0, logged - saved)


def newest(spec):
    bundle, problems = BundleStore(open_storage(spec.folder), keep=1).newest()
    assert problems == []
    return bundle


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)


@pytest.mark.heavy
@pytest.mark.chaos
@pytest.mark.parametrize(("written", "select"), [("checkpoint", None), ("candidate", {"interval_images": 64})])
def test_a_full_disk_is_said_and_the_training_goes_on_when_there_is_space(written, select, make_spec, small_disk, monkeypatch):
    monkeypatch.setattr(hooks.AgreeHook, "MOST_STEPS", 4)
    monkeypatch.setattr(hooks.CheckpointHook, "RETRY_SECONDS", 0.0)
    settings = {"train__total_images": 3200, "train__grid_interval_images": 100_000, "train__select": select}
    whole = make_spec("whole", **settings)
    train(whole)
    spec = make_spec("parts", **settings, folder=str(small_disk / "state"))
    asked, kept, told = [], [], []

    def visit():
        """Called between two steps; a disk that fills at the second visit and is freed once that is said."""
        asked.append(None)
        if len(asked) == 2:
            kept.append(newest(spec).numbers["step"])
            fill(small_disk)
        if kept and not told:
            told.extend(event["text"] for event in events(spec, "failed_write") if f"/{written}s/" in event["text"])
            if told:
                assert kept[0] in BundleStore(open_storage(spec.folder), keep=9).steps()
                (small_disk / "filler").unlink()
        return False

    train(spec, should_stop=visit)
    assert str(small_disk / "state") in told[0]
    assert f"this {written} needs" in told[0]
    assert parts_of(spec.folder) == parts_of(whole.folder)
    live = parse_lines((small_disk / "state" / HISTORY).read_text())
    assert [line["scalars"] for line in live] == [line["scalars"] for line in newest(spec).history]  # no line was lost


@pytest.mark.heavy
@pytest.mark.chaos
def test_a_disk_that_stays_full_ends_in_words_and_loses_nothing_before(make_spec, small_disk):
    spec = make_spec("x", folder=str(small_disk / "state"), train__grid_interval_images=100_000)
    before = []

    def visit():
        if not before:
            before.append(newest(spec).numbers["step"])
            fill(small_disk)
        return False

    with pytest.raises(
        OSError, match=r"not enough disk space for .*/(checkpoints|candidates)/.*needs [\d,]+ bytes, earlier checkpoints are whole"
    ):
        train(spec, should_stop=visit)
    assert newest(spec).numbers["step"] == before[0]
    (small_disk / "filler").unlink()
    whole = make_spec("whole", train__grid_interval_images=100_000)
    train(whole)
    train(spec)  # "run the same command again"
    assert parts_of(spec.folder) == parts_of(whole.folder)


@pytest.mark.heavy
@pytest.mark.chaos
def test_an_object_store_that_is_away_for_a_while_holds_up_no_step(make_spec, s3, monkeypatch):
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(hooks.CheckpointHook, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(hooks.AgreeHook, "MOST_STEPS", 4)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(storage, "REQUEST_SECONDS", 1.0)
    settings = {"train__total_images": 3200, "train__grid_interval_images": 100_000}
    whole = make_spec("whole", **settings)
    train(whole)
    spec = make_spec("away", folder=f"{s3.uri}/away", **settings)
    visits, steps = [], []

    def visit():
        visits.append(time.monotonic())
        if len(visits) == 2:
            s3.stop()
        if len(visits) == 10:
            steps.append(len(visits))  # eight more visits were made while nothing answered
            s3.resume()
        return False

    try:
        train(spec, should_stop=visit)
    finally:
        s3.resume()
    assert steps
    assert parts_of(spec.folder) == parts_of(whole.folder)
    live = parse_lines(open_storage(spec.folder).read(HISTORY).decode())
    assert [line["scalars"] for line in live] == [line["scalars"] for line in newest(spec).history]


@pytest.mark.heavy
@pytest.mark.chaos
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_kill_nine_at_any_moment_changes_nothing(make_spec, s3, place):
    settings = {"train__total_images": 4800, "train__checkpoint_interval_images": 64, "train__history_interval_images": 64}
    whole = make_spec("whole", **settings)
    train(whole)
    spec = make_spec("killed", **settings, **({"folder": f"{s3.uri}/killed"} if place == "s3" else {}))
    path = Path(whole.folder) / "spec.json"
    path.write_text(spec.model_dump_json())
    environment = {**os.environ, **s3.environment}
    command = [sys.executable, "-m", "ganlib.training", str(path)]
    kills, expected_again = 0, [0]  # images to be computed again, of every start
    for wait_seconds in (0.0, 0.5, None):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if wait_seconds is None:
            assert process.wait(timeout=200) == 0, process.stderr.read()[-3000:]
        else:
            with pytest.MonkeyPatch.context() as patch:
                for key, value in s3.environment.items():
                    patch.setenv(key, value)
                files = open_storage(spec.folder)
                seen = len(files.names("checkpoints"))
                deadline = time.monotonic() + 100
                while process.poll() is None and len(files.names("checkpoints")) == seen and time.monotonic() < deadline:
                    time.sleep(0.01)  # until it has begun to write its first one
            time.sleep(wait_seconds)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            with pytest.MonkeyPatch.context() as patch:
                for key, value in s3.environment.items():
                    patch.setenv(key, value)
                expected_again.append(lost_images(spec))
        process.stdout.close()
        process.stderr.close()
    assert kills == 2
    with pytest.MonkeyPatch.context() as patch:
        for key, value in s3.environment.items():
            patch.setenv(key, value)
        assert parts_of(spec.folder) == parts_of(whole.folder)
        assert [event.get("computed_again", 0) for event in events(spec, "start", "resumed")] == expected_again


def test_what_is_computed_again_is_counted(make_spec):
    """Images logged beyond the checkpoint that is left, two log lines and three checkpoints apart. Kills `computed_again` being always 0."""
    spec = make_spec("x", train__history_interval_images=32, train__keep_checkpoints=9)
    state = train(spec)
    store = BundleStore(open_storage(spec.folder), keep=9)
    *_, left, last = store.steps()
    assert (state.images_seen, last) == (640, 20)
    assert left < last
    store.storage.remove(store.name(last))
    train(spec)
    (resumed,) = events(spec, "resumed")
    assert (resumed["images_seen"], resumed["computed_again"]) == (32 * left, 32 * (last - left))
    assert f"resumed from step-{left:09d}, {32 * left:,} of 640 images done" in resumed["text"]
    store.storage.remove("checkpoints")  # nothing is left: all of it
    train(spec)
    *_, again = events(spec, "resumed")
    assert (again["images_seen"], again["computed_again"]) == (0, 640)
    assert again["text"].startswith("resumed from the start")


@pytest.mark.parametrize("broken", [float("inf"), -float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_reaches_every_weight(broken):
    """A hinge that is infinite has a gradient of 1. Kills a backward from the loss alone, and one that asks for NaN only."""
    losses = torch.tensor([1.0, broken], requires_grad=True)
    descend(losses.sum() / 2)
    assert losses.grad.isnan().all()
    fine = torch.tensor([1.0, 2.0], requires_grad=True)
    descend(fine.sum() / 2)
    assert fine.grad.tolist() == [0.5, 0.5]


@pytest.fixture
def wild(make_spec):
    def make(name, **overrides):
        rate = {"name": "sgd", "lr": 3.0e3}
        return make_spec(name, **{**WILD, "optim__discriminator": rate, "train__rollback_lr_factor": 1e-3, **overrides})

    return make


def test_a_divergence_rolls_back_with_a_lower_learning_rate(wild):
    spec = wild("x")
    state = train(spec)
    assert state.images_seen == 640
    records = newest(spec).numbers["rollbacks"]
    assert 1 <= len(records) <= 3
    assert all(record["to_images"] % 160 == 0 and record["to_images"] < record["from_images"] + 1 for record in records)
    assert newest(spec).history[-1]["scalars"]["lr_factor"] == pytest.approx(1e-3 ** len(records))
    told = events(spec, "rollback")
    assert len(told) == len(records)
    assert "Rolled back to" in told[0]["text"]
    assert "learning rates times 0.001" in told[0]["text"]


def test_rollbacks_are_the_same_through_interruptions_and_other_checkpoint_intervals(wild):
    whole, parts = wild("whole"), wild("parts", train__checkpoint_interval_images=64)
    train(whole)
    with pytest.raises(Interrupted):
        train(parts, should_stop=lambda: True)
    train(parts)
    assert parts_of(parts.folder) == parts_of(whole.folder)
    assert newest(parts).numbers["rollbacks"] == newest(whole).numbers["rollbacks"]


def test_a_training_can_be_stopped_after_a_rollback(wild):
    spec = wild("x", train__total_images=6400)
    with pytest.raises(Interrupted):
        train(spec, should_stop=lambda: len(events(spec, "rollback")) > 0)
    assert 0 < newest(spec).images_seen < 6400


def test_what_was_agreed_before_a_rollback_holds_nobody_up():
    asked = []
    agree = hooks.AgreeHook(should_stop=lambda: bool(asked.append(None)), is_owed=lambda: False)
    for step in range(1, 1000):
        agree(SimpleNamespace(step=step), is_last=False)
    before = len(asked)
    for step in range(1, 100):
        agree(SimpleNamespace(step=step), is_last=False)
    assert len(asked) > before


def test_rollbacks_are_bounded(wild):
    with pytest.raises(DivergenceError, match=r"2 rollbacks did not help \(train.max_rollbacks\)"):
        train(wild("x", train__rollback_lr_factor=0.999, train__max_rollbacks=2))


HANG = """
import sys, time
from ganlib.training import loop
spec = loop.TrainingSpec.model_validate_json(open(sys.argv[1]).read())
calls = []
def should_stop():
    calls.append(None)
    if len(calls) > 1:
        time.sleep(1000)
    return False
loop.train(spec, should_stop=should_stop, hang_timeout_seconds=3)
"""


@pytest.mark.heavy
@pytest.mark.chaos
def test_a_process_that_hangs_ends_itself_and_says_where(make_spec, tmp_path):
    spec = make_spec("x", train__total_images=100_000)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    done = subprocess.run([sys.executable, "-c", HANG, str(tmp_path / "spec.json")], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == EXIT_CODE, done.stderr[-3000:]
    assert "no step has ended for 3 s" in done.stderr
    assert "should_stop" in done.stderr  # the stack
    assert len(events(spec, "hang")) == 1


def test_a_torn_event_line_is_skipped_and_the_next_ones_are_whole(make_spec):
    spec = make_spec("x")
    path = Path(spec.folder) / EVENTS
    path.write_text(json.dumps({"kind": "start", "images_seen": 0, "text": "a", "time": 1.0}) + '\n{"kind": "che')
    train(spec)
    kinds = [event["kind"] for event in parse_lines(path.read_text())]
    assert kinds == ["start", "start", "finished"]
