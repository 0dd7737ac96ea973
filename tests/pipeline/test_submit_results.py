"""Results of a job applied to a working tree: what is restored, and what is never overwritten. No Ray; the outs are made by hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.submit import results
from pipeline.submit.results import Record, Storage
from tests.pipeline.tiny_jobs import git, make_repository

# DVC itself uses what one of its packages is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _run_by_hand(root: Path, seed: int) -> None:
    """What `dvc repro` with that seed leaves, without its minute of processes."""
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("seed: 1 ", f"seed: {seed} "))
    for name in ("samples", "reports"):
        (root / name).mkdir()
        (root / name / "seed.txt").write_text(str(seed))
    _dvc(root, "commit", "--force", "--quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clone `home`, and what a job of its commit left in `remote`, once as `job`, once with another seed as `other`."""
    folder = tmp_path_factory.mktemp("made")
    home = make_repository(folder / "home", remote=folder / "remote")
    commit = git(home, "rev-parse", "HEAD")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
        for name, seed in (("job", 7), ("other", 8)):
            git(folder, "clone", "--quiet", str(home), str(folder / name))
            _run_by_hand(folder / name, seed)
            results.keep(folder / name, job=name, commit=commit, workspace="")
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "home", tmp_path / "home")
    return tmp_path / "home"


def _fetch(home: Path, job: str = "job", *, force: bool = False) -> str:
    said: list[str] = []
    storage = Storage(home)
    results.fetch(home, storage, storage.read(job), force=force, say=said.append)
    return "\n".join(said)


def _files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not {".dvc", ".git"} & set(path.parts)}


def test_fetched_results_are_clean_and_restore_without_computing(home: Path) -> None:
    """Kills a fetch that leaves the parameters, the lock or the run cache behind."""
    assert "make, report; params.yaml and dvc.lock changed" in _fetch(home)
    assert "seed: 7   # kept" in (home / "params.yaml").read_text()
    assert "up to date" in _dvc(home, "status")
    assert list((home / ".dvc" / "cache" / "runs").rglob("*"))
    for name in ("samples", "reports", ".dvc/cache"):
        shutil.rmtree(home / name)
    _dvc(home, "pull")
    assert "up to date" in _dvc(home, "status")
    assert (home / "samples" / "seed.txt").read_text() == "7"
    assert "changed" not in _fetch(home)  # once more: nothing to do


def test_local_changes_are_not_overwritten(home: Path) -> None:
    """Kills a fetch that writes first and asks later: after a refusal everything is as it was."""
    for name, text in (("params.yaml", "train: {seed: 3}\n"), ("dvc.lock", "schema: '2.0'\n"), ("samples/mine.txt", "mine")):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
        before = _files(home)
        with pytest.raises(ValueError, match=rf"{name.partition('/')[0]}.* would be overwritten"):
            _fetch(home)
        assert _files(home) == before
        if name == "params.yaml":
            git(home, "checkout", "--quiet", name)
        elif name == "dvc.lock":
            (home / name).unlink()
    (home / "params.yaml").write_text("train: {seed: 3}\n")
    _fetch(home, force=True)
    assert "up to date" in _dvc(home, "status")


def test_results_of_another_job_wait_for_a_commit_but_outs_in_the_cache_do_not(home: Path) -> None:
    _fetch(home)
    with pytest.raises(ValueError, match=r"params\.yaml and dvc\.lock would be overwritten"):
        _fetch(home, "other")
    git(home, "checkout", "--quiet", "params.yaml")
    (home / "dvc.lock").unlink()
    _fetch(home, "other")  # samples differ from what no lock names, but nothing of them would be lost
    assert (home / "samples" / "seed.txt").read_text() == "8"


def test_other_code_than_the_jobs_is_told(home: Path) -> None:
    (home / "make.py").write_text((home / "make.py").read_text() + "# changed\n")
    assert "make.py differ from commit" in _fetch(home)


def test_outs_that_the_storage_has_not_leave_everything_as_it_was(home: Path, made: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(made / "remote", remote)
    shutil.rmtree(remote / "files")
    _dvc(home, "remote", "modify", "--local", "ours", "url", str(remote))
    before = _files(home)
    with pytest.raises(ValueError, match="could not be fetched from"):
        _fetch(home)
    assert _files(home) == before


def test_job_that_left_nothing_and_a_name_that_is_none(home: Path) -> None:
    assert Storage(home).names() == ["job", "other"]
    with pytest.raises(ValueError, match="job nobody left no results in"):
        Storage(home).read("nobody")
    with pytest.raises(ValueError, match="is no name of a job"):
        Storage(home).read("../job")
    with pytest.raises(ValueError, match="is no name of a job"):
        Storage(home).write(Record(job="../x", commit="", stages=[], params_yaml="", dvc_lock=""))


def test_without_a_remote_the_cache_of_a_workspace_is_one(made: Path, tmp_path: Path) -> None:
    bare = make_repository(tmp_path / "bare")
    with pytest.raises(ValueError, match="results have no way home"):
        Storage(bare)
    with pytest.raises(ValueError, match="is not to be seen from this machine"):
        Storage(bare, workspace=str(tmp_path / "nowhere"))
    shutil.copytree(made / "remote", tmp_path / "shared" / "cache")
    storage = Storage(bare, workspace=str(tmp_path / "shared"))
    assert storage.names() == ["job", "other"]
