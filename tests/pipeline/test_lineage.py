"""Import closures and commits."""

import pytest

from pipeline import lineage


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
