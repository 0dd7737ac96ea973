"""Import closures and commits."""

import os
import subprocess

import pytest

from pipeline import lineage, ready


@pytest.fixture
def project(tmp_path):
    files = {
        "ganlib/__init__.py": "",
        "ganlib/registry.py": "class Registry: ...",
        "ganlib/things/__init__.py": "from ganlib.registry import Registry\nTHINGS = Registry('thing', package='ganlib.things')",
        "ganlib/things/one.py": "",
        "ganlib/unused.py": "",
        "pipeline/__init__.py": "",
        "pipeline/stage.py": "def main():\n    from ganlib import things\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_follows_functions_packages_and_registries(project):
    found = {str(path) for path in lineage.import_closure("pipeline.stage", root=project)}
    assert found == {
        "pipeline/__init__.py",
        "pipeline/stage.py",
        "ganlib/__init__.py",
        "ganlib/registry.py",
        "ganlib/things/__init__.py",
        "ganlib/things/one.py",
    }


def test_the_commit_of_an_export_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GANPIPE_GIT_COMMIT", raising=False)
    assert lineage.git_commit(tmp_path) == "unknown"
    monkeypatch.setenv("GANPIPE_GIT_COMMIT", "abc")
    assert lineage.git_commit(tmp_path) == "abc"


def git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(project, monkeypatch):
    """The project with its settings, committed."""
    monkeypatch.delenv("GANPIPE_GIT_COMMIT", raising=False)
    (project / "params.yaml").write_text("a: 1\n")
    (project / "dvc.yaml").write_text("stages: {}\n")
    git(project, "init", "-q")
    git(project, "add", "ganlib", "pipeline", "params.yaml", "dvc.yaml")
    git(project, "commit", "-qm", "first")
    return project


def test_the_repository_around_a_project_is_not_its_own(repository):
    """Kills: whatever repository git finds upwards taken for the project's; one that has the project in a folder of it refused."""
    inside = repository / "downloads" / "project"
    inside.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (inside / name).write_text("")
    assert lineage.git_commit(inside) == "unknown"
    assert lineage.changed_files(inside) == []
    assert lineage.in_words("unknown", []) == "no git repository; no commit recorded"
    git(repository, "add", "downloads")
    git(repository, "commit", "-qm", "second")
    assert lineage.git_commit(inside) == git(repository, "rev-parse", "HEAD")
    (inside / "params.yaml").write_text("a: 2\n")
    assert lineage.changed_files(inside) == ["params.yaml"]


def test_what_ran_and_is_not_in_the_commit_is_said(repository):
    """Kills: settings of `dvc exp run -S` under the name of the commit; new files of the code not looked at; others' files counted."""
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "notes.txt").write_text("")
    assert lineage.git_commit(repository) == commit
    (repository / "params.yaml").write_text("a: 2\n")
    assert lineage.git_commit(repository) == f"{commit}-dirty"
    (repository / "ganlib" / "naïve loss.py").write_text("")
    git(repository, "mv", "ganlib/unused.py", "ganlib/used.py")
    changed = lineage.changed_files(repository)
    assert changed == ["ganlib/naïve loss.py", "ganlib/unused.py", "ganlib/used.py", "params.yaml"]
    assert lineage.in_words(f"{commit}-dirty", changed[-1:]) == f"commit {commit[:12]}, and changes in params.yaml"


def dvc(folder, *arguments):
    return subprocess.run(["dvc", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_project_without_git_is_one_for_dvc(tmp_path, capsys):
    """With the real DVC. Kills: no_scm left to the user; a second line at every call; a project that git has told to be without."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    assert dvc(tmp_path, "status").returncode != 0
    for _ in range(2):
        assert ready.without_git(tmp_path).startswith("no git repository; no commit recorded")
        assert dvc(tmp_path, "status").returncode == 0
        assert (tmp_path / ".dvc" / "config.local").read_text().count("no_scm") == 1
    git(tmp_path, "init", "-q")
    assert ready.without_git(tmp_path) == ""


def test_a_name_that_dvc_cannot_hash_is_said(tmp_path):
    """Kills: names that are compared as text; only the files of the first folder; an unreadable message."""
    good = tmp_path / "data" / "incoming" / "naïve"
    good.mkdir(parents=True)
    (good / "日本.png").touch()
    ready.check_names(tmp_path, "data/incoming")
    with open(os.fsencode(good) + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(ValueError, match=r"data\.path=data/incoming that are not UTF-8, .*na\\xefve/caf\\udce9\.png; rename them"):
        ready.check_names(tmp_path, "data/incoming")
