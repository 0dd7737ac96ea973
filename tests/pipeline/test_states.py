"""Which states of trainings there are, how they differ, and that none goes without its name: for a folder and for an object store."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ganlib.storage import open_storage
from ganlib.training.state import BundleStore
from pipeline import edit, identity, schema
from pipeline.identity import Identity
from pipeline.states import command, known, record
from pipeline.states.known import Difference, age, look, size

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"model": {"name": "dcgan"}, "task": {"loss": "hinge"}, "train": {"total_images": 640}}
CODE = {"ganlib.losses:Hinge": "1", "ganlib.ema:Ema": "2"}


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.heavy)])
def project(request, tmp_path, monkeypatch):
    """A folder with a params.yaml whose states lie in a folder or in an object store."""
    uri = "state"
    if request.param == "s3":
        store = request.getfixturevalue("s3")
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        uri = f"{store.uri}/{request.node.name}"
    values = edit.document(ROOT / "params.yaml")
    edit.set_value(values, "train.state_uri", uri)
    edit.write(values, tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").touch()
    return Project(tmp_path, uri)


class Project:
    def __init__(self, root: Path, uri: str) -> None:
        self.root, self.uri = root, uri

    def storage(self, name: str):
        return open_storage(known.state_uri(self.uri, name, self.root))

    def add(self, begin: str, *, images=320, settings=SETTINGS, code=CODE, commit="c" * 40, hour=0, data="d" * 64) -> str:
        """A state as a training leaves it, begun at that hour; its name."""
        key = (begin * 64)[:64]
        storage = self.storage(key[:16])
        kept = record.Record(
            run_key=key,
            settings=settings,
            data_digest=data,
            code=code,
            data_source="digits",
            git_commit=commit,
            began=f"2024-01-01T{hour:02d}:00:00+00:00",
        )
        storage.write(record.NAME, kept.model_dump_json().encode())
        numbers = {"format": 3, "step": images // 64, "images_seen": images, "is_boundary": False, "score": None}
        BundleStore(storage, keep=3).save({"x": torch.zeros(1000)}, numbers, [])
        return key[:16]

    def names(self) -> list[str]:
        return [state.name for state in look(self.uri, self.root)]

    def run(self, *argv: str) -> int:
        try:
            command.main(argv, self.root)
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def test_states_are_found_the_newest_first_and_nothing_else_is(project):
    """Kills: a folder of somebody else's that counts as a state (`remove --keep 0` would take it); oldest first; a checkpoint without its seal."""
    project.add("a", hour=1)
    project.add("b", hour=2, images=640)
    project.storage("notes").write("mine.txt", b"1")
    project.storage("0" * 16).write("mine.txt", b"1")
    project.storage("a" * 16).write("checkpoints/step-000000009/state.json", b'{"images_seen": 576}')
    newest, oldest = look(project.uri, project.root)
    assert (newest.name, newest.is_finished, newest.images_seen) == ("b" * 16, True, 640)
    assert (oldest.name, oldest.is_finished, oldest.progress) == ("a" * 16, False, "320 of 640 images")
    assert 4000 < newest.size_bytes < 10_000


def test_nothing_is_removed_without_its_name_and_without_an_answer(project, monkeypatch, capsys):
    """Kills: a default that means all; removing before the answer; `n` as yes; a neighbour of the one that is named; leftovers."""
    a, b = project.add("a", hour=1), project.add("b", hour=2)
    with pytest.raises(ValueError, match="nothing is named"):
        project.run("remove", "--yes")
    for key in ("", "c", "bb0"):
        with pytest.raises(ValueError, match="expected 1; states"):
            project.run("remove", "--yes", key)
    for answer in ("n", ""):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert project.run("remove", "aa") == 1
    assert project.names() == [b, a]
    assert a in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert project.run("remove", "aa") == 0
    assert project.names() == [b]
    assert project.storage(a).size_bytes("") == 0
    assert project.storage(b).size_bytes("") > 4000


def test_keep_spares_the_newest(project):
    """Kills: sparing the oldest; `states[:keep]`."""
    for digit, hour in (("a", 3), ("b", 1), ("c", 2)):
        project.add(digit, hour=hour)
    assert project.run("remove", "--keep", "2", "--yes") == 0
    assert project.names() == ["a" * 16, "c" * 16]
    with pytest.raises(ValueError, match="--keep -1"):
        project.run("remove", "--keep", "-1", "--yes")


HOLD = """
import sys, time
from ganlib.storage import open_storage
from pipeline.driver.lock import StateLock
with StateLock(open_storage(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_state_that_is_held_stays(project, capsys):
    """Kills: removing under a training that runs; and a dead holder that protects its state for ever."""
    name = project.add("a")
    process = subprocess.Popen([sys.executable, "-c", HOLD, project.storage(name).uri], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        for arguments in (["a"], ["--keep", "0"]):
            assert project.run("remove", *arguments, "--yes") == 1
            assert f"kept: {name} is held by " in capsys.readouterr().out
        (state,) = look(project.uri, project.root)
        with pytest.raises(ValueError, match="this training is held by"):  # had it begun after the look
            command.remove(state, project.uri, project.root)
        assert project.storage(name).read(record.NAME)
    finally:
        process.kill()
        process.communicate()
    assert project.run("remove", "a", "--yes") == 0
    assert project.names() == []


def test_gone_is_what_no_branch_has(tmp_path):
    """Kills: an amended commit that counts as kept, a branch of a remote that does not, and "unknown" or another repository's word as gone."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    with pytest.raises(ValueError, match="is no git repository"):
        command.commits_kept(tmp_path)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    one = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "two")
    two = git("rev-parse", "HEAD")
    git("commit", "-q", "--amend", "--allow-empty", "-m", "three")
    is_kept = command.commits_kept(tmp_path)
    assert [is_kept(commit) for commit in (one, f"{one}-dirty", two, f"{two}-dirty", "0" * 40, "unknown")] == [
        True, True, False, False, False, True,
    ]  # fmt: skip
    git("update-ref", "refs/remotes/origin/x", two)
    assert is_kept(two)


def test_a_record_is_written_once(project):
    """Kills: a record that the commit or the clock of a restart overwrites; a state taken for another training's."""
    storage = project.storage("e" * 16)
    this = Identity(settings=SETTINGS, data_digest="d" * 64, code=CODE)
    first = record.keep(storage, this, data_source="digits", root=project.root)
    assert first.run_key == this.key
    storage.write(record.NAME, first.model_copy(update={"git_commit": "earlier"}).model_dump_json().encode())
    assert record.keep(storage, this, data_source="other", root=project.root).git_commit == "earlier"
    other = Identity(settings=SETTINGS, data_digest="e" * 64, code=CODE)
    with pytest.raises(ValueError, match="is the state of training"):
        record.keep(storage, other, data_source="digits", root=project.root)
    storage.write(record.NAME, b"{")  # cut short by something that is not us
    assert record.keep(storage, this, data_source="digits", root=project.root) == record.read(storage)


def test_what_the_train_stage_tells(project):
    """Kills: other data's states, this training's own and finished ones in the list; the way from now to then in place of then to now."""
    project.add("a", hour=1, commit="a" * 40 + "-dirty")
    project.add("b", hour=2, images=640)
    project.add("c", hour=3, data="e" * 64)
    now = Identity(settings=SETTINGS | {"train": {"total_images": 1280}}, data_digest="d" * 64, code={**CODE, "ganlib.ema:Ema": "3"})
    first, state, *changes, back, end = known.told(project.uri, now, project.root)
    assert "unfinished ones of the same data" in first
    assert state.startswith(f"  {'a' * 16}  320 of 640 images, ")
    assert changes == ["    train.total_images: 640 -> 1280", "    code: ganlib.ema:Ema changed"]
    assert back == (
        f"    to go on with it: git checkout {'a' * 40} with the changes that were not committed then; "
        "in params.yaml train.total_images: 640; dvc repro"
    )
    assert end == "  (1 finished: python -m pipeline.states list)"
    assert project.run("remove", "aa", "--yes") == 0
    project.add(now.key[:16], hour=4)  # its own, whose record another process has just written
    assert known.told(project.uri, now, project.root) == []


def test_a_setting_that_names_other_code_is_no_change_of_code():
    """Kills: comparing the code of two losses where only the setting has changed, and sending the user to another commit for it."""

    def settings_and_code(loss: str):
        values = edit.plain(ROOT / "params.yaml")
        edit.set_value(values, "task.loss", loss)
        params = schema.parse(values)
        return identity.training_settings(params), identity.training_code(params, ROOT).parts

    (then_settings, then_code), (now_settings, now_code) = settings_and_code("hinge"), settings_and_code("minimax")
    assert then_code != now_code
    facts = {"run_key": "a" * 64, "data_source": "s", "git_commit": "c", "began": "2024-01-01"}
    then = record.Record(settings=then_settings, data_digest="d", code=then_code, **facts)
    now = Identity(settings=now_settings, data_digest="d", code=now_code)
    difference = Difference.between(then, now, ROOT)
    assert difference.lines() == ["task.loss: hinge -> minimax"]
    assert difference.way_back() == "in params.yaml task.loss: hinge; dvc repro"
    elsewhere = Difference.between(then, Identity(settings=then_settings, data_digest="d", code=then_code, parent={"kind": "start"}), ROOT)
    assert elsewhere.lines() == ["what it takes over from another training: something else now"]


def test_list_and_show_say_what_there_is(project, capsys):
    """Kills: a state without a record that breaks the list."""
    project.add("a", hour=1)
    project.storage("b" * 16).write("tracking.json", b"{")
    assert project.run("list") == 0
    shown = capsys.readouterr().out
    assert "320 of 640" in shown
    assert "no training.json" in shown
    assert project.run("show", "aa") == 0
    assert "digest dddd" in capsys.readouterr().out
    assert project.run("show", "bb") == 0
    assert "nobody knows what it is of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_949, "9.9 kB"), (9_950, "10 kB"), (310_400_000, "310 MB"), (999_600, "1.0 MB")],
)
def test_sizes_in_human_units(size_bytes, expected):
    """Kills: 1024 for 1000, and `1000 kB`."""
    assert size(size_bytes) == expected


def test_ages_in_human_units():
    """Kills: rounding up, and a plural of one."""
    now = time.time()
    ages = [age(now - seconds, now) for seconds in (5, 60, 7199, 86_400 * 3.9)]
    assert ages == ["just now", "1 minute ago", "1 hour ago", "3 days ago"]
    assert age(0) == "at an unknown time"
