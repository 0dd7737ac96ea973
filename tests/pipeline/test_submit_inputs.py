"""What a job needs and would not have is said, a line each, before it is sent. No Ray; git and DVC are real."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.submit import sending
from tests.pipeline.tiny_jobs import STAGES, Recorder, anything, git, make_repository

# DVC itself uses what one of its packages is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A pipeline whose first stage also reads `data.path`; what lies there is ignored by git, as in this project."""
    root = make_repository(tmp_path / "project", remote=tmp_path / "remote")
    (root / "dvc.yaml").write_text(STAGES.replace("deps: [make.py]", "deps: [make.py, '${data.path}']"))
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "data: {path: incoming}\n")
    (root / "incoming").mkdir()
    (root / "incoming" / "README.md").write_text("yours")
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "/incoming/*\n!/incoming/README.md\n!/incoming/*.dvc\n")
    (root / ".dvcignore").write_text("__pycache__\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "data")
    return root


def sent(repository: Path, **options: object) -> list[str]:
    said: list[str] = []
    request = sending.Request(root=repository, workspace="/shared", validate=anything, **options)  # type: ignore[arg-type]
    sending.submit(request, Recorder(), say=said.append)
    return [line for line in said if line.startswith(("expected", "not sent"))]


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


def test_data_that_git_ignores_are_refused_until_the_remote_has_them(repository: Path) -> None:
    """Kills: silence about ignored files, trust in a .dvc file whose data nobody pushed, and a refusal of data that are there."""
    assert sent(repository) == []
    cache = repository / "incoming" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_text("what DVC ignores too")
    assert sent(repository) == []
    (repository / "incoming" / "a.png").write_text("a picture")
    with pytest.raises(
        ValueError, match=r"(?s)would not have.*incoming/a\.png: a stage reads it, and neither git nor DVC has it\. `dvc add`"
    ):
        sent(repository)
    (line,) = sent(repository, allow_dirty=True)
    assert line.startswith("not sent: incoming: incoming/a.png")
    assert "\n" not in line
    dvc(repository, "config", "core.autostage", "false")
    dvc(repository, "add", "incoming/a.png")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "tracked")
    with pytest.raises(ValueError, match=r"the DVC remote lacks .*a\.png: `dvc push incoming/a\.png\.dvc` first"):
        sent(repository)
    dvc(repository, "push", "incoming/a.png.dvc")
    assert sent(repository) == []


def test_data_named_by_hash_need_a_remote(repository: Path) -> None:
    (repository / "incoming" / "a.png").write_text("a picture")
    dvc(repository, "add", "incoming/a.png")
    (repository / ".dvc" / "config").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "tracked")
    with pytest.raises(ValueError, match=r"incoming/a\.png\.dvc: names data by their hash, and there is no DVC remote"):
        sent(repository)


def test_an_override_decides_where_data_are(repository: Path, tmp_path: Path) -> None:
    """Kills a look at the params.yaml of this clone instead of the job's."""
    (repository / "incoming" / "a.png").write_text("a picture")
    assert sent(repository, overrides=[f"data.path={tmp_path / 'photos'}"]) == [
        f"expected: on the nodes, under the same path: {tmp_path / 'photos'}"
    ]


def test_data_in_a_store_are_expected_there(repository: Path) -> None:
    """Kills: an address that is said to be missing, and silence about what the nodes must reach."""
    assert sent(repository, overrides=["data.source_uri=s3://bucket/photos"]) == [
        "expected: in a store that the nodes reach, with credentials that they have: data.source_uri=s3://bucket/photos"
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.start_from=weights", "not sent: train.start_from=weights is not in the commit: commit it, register it"),
        ("train.start_from=nowhere", "not sent: train.start_from=nowhere is not there"),
        ("train.start_from=/weights", "expected: on the nodes, under the same path: train.start_from=/weights"),
        (
            "train.start_from='0123456789abcdef'",
            "expected: train.start_from=0123456789abcdef is looked for in the state folder of the workspace",
        ),
        ("train.continue_from='0123456789abcdef'", "expected: train.continue_from=0123456789abcdef is looked for in the state folder"),
    ],
)
def test_weights_to_begin_from(repository: Path, override: str, expected: str) -> None:
    (repository / "weights").mkdir()
    (repository / "weights" / "generator.json").write_text("{}")
    with (repository / ".git" / "info" / "exclude").open("a") as file:
        file.write("/weights\n")
    key = override.partition("=")[0]
    assert [line for line in sent(repository, overrides=[override], allow_dirty=True) if line.startswith(expected)], key
    if expected.startswith("not sent"):
        with pytest.raises(ValueError, match="would not have what it needs"):
            sent(repository, overrides=[override])


def test_weights_of_the_registry_and_of_the_commit_need_nothing(repository: Path) -> None:
    assert sent(repository, overrides=["train.start_from='models:/gan/1'"]) == []
    assert sent(repository, overrides=["train.start_from=incoming"]) == []
