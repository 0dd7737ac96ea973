"""The resume doctor on real processes: planted faults are named, what is sound is left in peace."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from pipeline.doctor import checkpoints, command
from pipeline.doctor.runs import Place, Script

TESTS = Path(__file__).resolve().parents[1]
FAULTS = {  # -> the kind of state that is named, and the entry
    "weights": ("weights", "model.second"),
    "optimizer": ("optimizer", "optimizer.first"),
    "average": ("average", "ema.first"),
    "sampler": ("sampler", "sampler.order"),
    "RNG": ("RNG", "rng.key"),
    "schedule": ("schedule", "schedule.lr"),
    "off by one": ("sampler", "sampler."),  # the step that is made twice takes a batch too many
    "RNG not saved": ("sampler", "sampler.order"),  # what it draws next is the order of the images
    "torn": ("resume", ""),
}


def command_of(fault=""):
    return [sys.executable, "-S", "-c", RUN, "{out}", *([fault] if fault else [])]


def examined(tmp_path, fault="", also=None, workers=()):
    script = Script(
        command=[*command_of(fault), *workers],
        checkpoint="{out}/*.npz",
        resume=[],
        folder=tmp_path,
        limit_seconds=120,
    )
    return command.examine(script, tmp_path, also=also)


RUN = f"import sys; sys.path[:0] = {sys.path!r}; import runpy; runpy.run_path({str(TESTS / 'faulty_training.py')!r}, run_name='__main__')"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(tmp_path, fault):
    """Kills: a doctor that compares weights alone, blames a consequence, or never kills while a checkpoint is written."""
    finding = examined(tmp_path, fault)
    assert finding is not None
    kind, name = FAULTS[fault]
    assert finding.kind == kind, finding.lines()
    told = "\n".join(finding.lines())
    assert name in told.splitlines()[1 if finding.differences else 0]
    if fault == "RNG not saved":
        assert "no entry looks like RNG state: what is not saved starts anew" in told
    if fault == "torn":
        assert "killed while it wrote a checkpoint and resumed: it cannot be resumed: exit code 1" in told


def test_a_sound_training_is_left_in_peace(tmp_path):
    """Kills: a doctor that always finds something."""
    assert examined(tmp_path, also=command_of("schedule")) is None  # a fault of resuming, and this one is not resumed


@pytest.mark.parametrize(
    ("also", "words"),
    [
        ([*command_of(), "", "one more"], "it does not end as the command does"),
        ([sys.executable, "-c", "raise SystemExit('no second worker')"], "it does not end: exit code 1; it said: no second worker"),
    ],
)
def test_another_way_to_the_same_is_compared(tmp_path, also, words):
    """As of two workers. Kills: `--also` that is run and not looked at, and one that fails under the first command's name."""
    finding = examined(tmp_path, also=also)
    assert finding is not None
    assert (finding.where.startswith("`"), finding.words) == (True, words)
    if finding.differences:
        assert "model.first" in "\n".join(finding.lines())


@pytest.mark.parametrize(
    ("fault", "where"),
    [("seeds of two", "on two workers"), ("shards of one", "killed on one worker and resumed on two"), ("", None)],
)
def test_two_workers_are_compared_with_one(tmp_path, fault, where):
    """Kills: two workers that are never run, one that was killed and goes on as one, and a doctor that finds something in what is sound."""
    finding = examined(tmp_path, workers=[*([] if fault else [""]), "", "{workers}"], fault=fault)
    assert (finding and finding.where) == where
    assert finding is None or finding.kind == "sampler"


SESSIONS = """
import subprocess, sys, time
from pathlib import Path
if len(sys.argv) > 2:  # what torchrun's workers are: in a session of their own, and they start others
    while True:
        subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.01)"], start_new_session=True)
        Path(sys.argv[1], "pulse").write_text(str(time.monotonic_ns()))
Path(sys.argv[1], "first.json").write_text("1")
time.sleep(0.3)
Path(sys.argv[1], "first.json").write_text("2")
worker = subprocess.Popen([sys.executable, "-S", sys.argv[0], sys.argv[1], "worker"], start_new_session=True)
while worker.poll() is None:
    time.sleep(0.05)
    Path(sys.argv[1], "first.json").write_text(str(time.monotonic_ns()))
"""


def test_killed_is_everything_that_was_started(tmp_path):
    """Kills: torchrun's workers, which train on in the folder of the one that is resumed."""
    (tmp_path / "train.py").write_text(SESSIONS)
    command = [sys.executable, "-S", str(tmp_path / "train.py"), "{out}"]
    place = Place.new(Script(command=command, checkpoint="{out}/*.json", resume=[], folder=tmp_path, limit_seconds=60), tmp_path / "out")
    assert place.kill(20, "after")
    pulse = (tmp_path / "out" / "pulse").read_text()
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or [])]
    assert left == []
    time.sleep(0.3)
    assert (tmp_path / "out" / "pulse").read_text() == pulse


def test_a_run_that_is_not_repeatable_is_no_fault_of_its_resume(tmp_path):
    """Kills: chance taken for a resume's fault; a clock taken for chance."""
    (tmp_path / "train.py").write_text(
        "import json, os, pathlib, sys\n"
        "pathlib.Path('out').mkdir(exist_ok=True)\n"
        "value = int.from_bytes(os.urandom(6)) if sys.argv[1] == 'chance' else 1\n"
        "pathlib.Path('out/state.json').write_text(json.dumps({'weights': value, 'wall_seconds': os.getpid()}))\n"
    )
    script = Script(command=[sys.executable, "train.py", "chance"], checkpoint="out/*.json", resume=[], folder=tmp_path, limit_seconds=60)
    (tmp_path / "chance").mkdir()
    scratch = tmp_path.parent / f"{tmp_path.name}-scratch"
    scratch.mkdir()
    finding = command.examine(script, scratch)
    assert finding is not None
    assert "two undisturbed runs differ" in finding.words
    assert [each.name for each in finding.differences] == ["out/state.json: weights"]
    assert not (tmp_path / "out").exists()  # each run had a copy of the folder


def test_every_kind_of_file_is_read_and_nothing_in_it_is_run(tmp_path):
    """Kills: bfloat16 that numpy cannot hold, Adam's exp_avg taken for an average of weights, and a pickle that is opened."""
    tensors = {"w": torch.ones(2, 3), "half": torch.full((2,), 0.5, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "a.safetensors")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    torch.save({"model": tensors, "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "b.pt")
    np.savez(tmp_path / "c.npz", x=np.arange(3))
    (tmp_path / "d.json").write_text(json.dumps({"rng": {"state": 2**100}, "lr": 0.1}))
    read = {path.name: checkpoints.read(path) for path in sorted(tmp_path.iterdir())}
    assert read["a.safetensors"]["half"].dtype == "bfloat16"
    assert read["b.pt"]["epoch"].value == 3
    assert {"model.w", "optimizer.param_groups.0.lr"} <= read["b.pt"].keys()
    assert read["d.json"]["rng.state"].value == str(2**100)
    assert checkpoints.differences(read, read) == []
    other = {**read, "a.safetensors": {**read["a.safetensors"], "w": checkpoints.entry(torch.tensor([[1.0, 1, 1], [1, 2, 1]]))}}
    (difference,) = checkpoints.differences(read, other)
    assert difference.in_words() == "weights: a.safetensors: w differs in 1 of 6 values, first at [1, 1]: 2.0, expected 1.0"
    assert [checkpoints.kind(name) for name in ("optimizer.state.0.exp_avg", "ema.conv", "rng.key", "sampler.order", "lr")] == [
        "optimizer",
        "average",
        "RNG",
        "sampler",
        "schedule",
    ]
    torch.save(subprocess.Popen, tmp_path / "evil.pt")
    (tmp_path / "half.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:50])
    for name in ("evil.pt", "half.npz"):
        with pytest.raises(checkpoints.UnreadableError, match=name):
            checkpoints.read(tmp_path / name)


@pytest.mark.slow
def test_ours_is_sound(tmp_path, monkeypatch):
    """Half a dozen lives of a real training, on one worker and on two. Kills: a bundle that lacks anything, and one that can be seen half-written."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "{workers}"]
    script = Script(
        command=[*torchrun, "-m", "tests.chaos.our_training", "{out}"],
        checkpoint="{out}/state/checkpoints/*/tensors.safetensors",
        resume=[],
        folder=TESTS.parent,
        limit_seconds=400,
    )
    finding = command.examine(script, tmp_path)
    assert finding is None, finding.lines()
