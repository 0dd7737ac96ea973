"""Clones of this project for the tests that run it as a user does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clones import Clone, made_once, new_clone
from tests.object_store import ObjectStore, object_store

LONG = ("pipeline", "chaos", "heavy")  # markers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, the others fill what is left: two processes are done at the same time."""
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in LONG) and not item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def make_clone(tmp_path_factory):
    """make_clone() -> a fresh Clone with the tiny recipe, committed."""

    def make() -> Clone:
        return new_clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("home"))

    return make


@pytest.fixture(scope="session")
def together(tmp_path_factory, worker_id) -> Path:
    """A folder that all processes of this run of the tests see."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def make_prepared(together, tmp_path_factory):
    """make_prepared() -> a fresh Clone whose data are prepared; only the first one costs a `dvc repro prepare`."""

    def make() -> Clone:
        ready = made_once(together / "prepared", lambda clone: clone.repro("prepare"))
        return ready.copy(tmp_path_factory.mktemp("prepared") / "clone")

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    """A real S3 server; each test takes a prefix of its own in its bucket."""
    with object_store() as store:
        yield store


@pytest.fixture(scope="session")
def finished(together, tmp_path_factory) -> Clone:
    """A clone in which `dvc repro` has run once. Tests leave it as they find it, or copy it: other files come after."""

    def run(clone: Clone) -> None:
        assert clone.repro() == ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]

    return made_once(together / "finished", run).copy(tmp_path_factory.mktemp("finished") / "clone")
