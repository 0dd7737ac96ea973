"""A store of MLflow with its tables, for the tests of the registry."""

import pytest

from pipeline.tracking import registration
from pipeline.tracking import store as stores
from tests.registrations import described_alone


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    """The file of an empty one: its tables take seconds to make."""
    folder = tmp_path_factory.mktemp("made")
    stores.Store(stores.sqlite_uri(folder / "mlflow.db"), "gan")
    return folder / "mlflow.db"


@pytest.fixture
def registry_root(made_store, tmp_path, monkeypatch):
    """A folder with such a store, in which a registration exports no network."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(made_store.read_bytes())
    monkeypatch.setattr(registration, "_log_version", described_alone)
    return tmp_path
