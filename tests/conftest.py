"""Clones of this project for the tests that run it as a user does."""

from collections.abc import Iterator

import pytest

from tests.clones import Clone, new_clone
from tests.object_store import ObjectStore, object_store


@pytest.fixture(scope="session")
def make_clone(tmp_path_factory):
    """make_clone() -> a fresh Clone with the tiny recipe, committed."""

    def make() -> Clone:
        return new_clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("home"))

    return make


@pytest.fixture(scope="session")
def make_prepared(make_clone, tmp_path_factory):
    """make_prepared() -> a fresh Clone whose data are prepared; only the first one costs a `dvc repro prepare`."""
    ready = []

    def make() -> Clone:
        if not ready:
            ready.append(make_clone())
            ready[0].run("dvc", "repro", "prepare")
        return ready[0].copy(tmp_path_factory.mktemp("prepared") / "clone")

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    """A real S3 server; each test takes a prefix of its own in its bucket."""
    with object_store() as store:
        yield store


@pytest.fixture(scope="session")
def finished(make_clone) -> Clone:
    """A clone in which `dvc repro` has run once. Tests leave it as they find it, or copy it: other files come after."""
    clone = make_clone()
    assert clone.repro() == ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]
    return clone
