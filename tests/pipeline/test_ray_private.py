"""Every private name of Ray that is used exists, and does what it is used for."""

import importlib
import inspect
from functools import reduce

import pytest

from pipeline.driver import ray_private


@pytest.mark.parametrize(("module", "path"), ray_private.names(), ids=lambda value: str(value))
def test_the_name_is_there(module, path):
    """Kills: an upgrade of Ray that drops the name; the id of the failing case says which."""
    assert reduce(getattr, path.split("."), importlib.import_module(module)) is not None


def test_nothing_else_uses_a_private_name():
    """Kills: a private import outside the one file, and one in it that `names` does not list."""
    import ast
    from pathlib import Path

    def private(path: Path) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name for name in modules if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))}
        return found

    room = Path(ray_private.__file__).parent
    for path in room.parent.rglob("*.py"):
        if path != Path(ray_private.__file__):
            assert not private(path), path
    listed = {module for module, _ in ray_private.names()} | {f"{module}.{path.split('.')[0]}" for module, path in ray_private.names()}
    assert {name for name in private(Path(ray_private.__file__)) if name not in listed and f"{name}.state" not in listed} <= {
        "ray._private"
    }


def test_the_trainer_leaves_out_what_it_means_to():
    source = inspect.getsource(importlib.import_module("ray.train.v2.api.data_parallel_trainer"))
    for name in ("_create_default_callbacks", "DatasetsCallback", "PlacementGroupCleanerCallback"):
        assert name in source, f"Ray Train builds its callbacks another way: {name} is gone"
