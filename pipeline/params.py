"""The project's folder, and params.yaml as a stage sees it: its own sections. `pipeline.preflight` checks the whole file before any work."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.config import Section, explain

PROJECT_FILES = ("dvc.yaml", "params.yaml")
CODE = Path(__file__).resolve().parent.parent  # holds ganlib and pipeline: a clone, or where a wheel was installed


def find_project(start: Path) -> Path | None:
    """The nearest folder from `start` upwards that holds PROJECT_FILES."""
    return next((folder for folder in (start, *start.parents) if all((folder / name).is_file() for name in PROJECT_FILES)), None)


# One process works on one project, so this is settled once. The code's own folder is for what starts elsewhere: a Ray worker, a benchmark.
# Where there is no project it is the current folder, so that importing never fails; `project` is for whoever is about to use it.
ROOT = find_project(Path.cwd().resolve()) or find_project(CODE) or Path.cwd().resolve()

EXPERIMENTS = (".dvc", "tmp", "exps")  # below it `dvc exp run --temp` and `--queue` make copies of a project, which they delete

S = TypeVar("S", bound=Section)


class ParamsError(ValueError):
    """params.yaml cannot be used; the message lists every problem."""


def project(root: Path = ROOT) -> Path:
    """`root`.

    Raises:
        ParamsError: no project there.
    """
    if missing := [name for name in PROJECT_FILES if not (root / name).is_file()]:
        raise ParamsError(f"no project: no {' and '.join(missing)} in {root}; go to the folder of a project, or below it")
    return root


def home(root: Path = ROOT) -> Path:
    """The project that `root` belongs to: itself, or the one that a temporary experiment of DVC in `root` came from.

    What is to outlive a run and is no out (the state, the tracking store with its artifacts) lies there: the experiment's folder is deleted.
    """
    parts = root.parts
    for place in range(len(parts) - len(EXPERIMENTS), 0, -1):
        if parts[place : place + len(EXPERIMENTS)] == EXPERIMENTS:
            origin = Path(*parts[:place])
            inside = parts[place + len(EXPERIMENTS) :]  # standalone/tmpXXXX/..., tmpXXXX/...: a copy of the whole repository
            below = (Path(*inside[skip:]) for skip in range(len(inside) + 1))
            return next((origin / path for path in below if all((origin / path / name).is_file() for name in PROJECT_FILES)), origin)
    return root


def clone() -> Path:
    """ROOT, where it holds the very code that runs: only there do dvc.yaml's deps and a run key name that code.

    Raises:
        ParamsError: no project there, or its code is elsewhere.
    """
    if project() != CODE:
        raise ParamsError(f"stages need a clone: {ROOT} is a project, but the code that runs lies in {CODE}; run `dvc repro` in a clone")
    return ROOT


def read(path: Path | None = None) -> dict[str, Any]:
    """The values of params.yaml, unchecked.

    Raises:
        ParamsError: unreadable YAML, or no mapping.
    """
    path = path or project() / "params.yaml"
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # the parser DVC uses: 4e-4 is a number to both
    except (OSError, YAMLError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    return values


def validated(values: Any, schema: type[S], *, key: str = "") -> S:
    """`values` as `schema`; `key` is their place in params.yaml.

    Raises:
        ParamsError: one line a problem.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ParamsError("params.yaml cannot be used:\n" + explain(error, schema, key=key)) from None


def section(name: str, schema: type[S], path: Path | None = None) -> S:
    """One section of params.yaml.

    Raises:
        ParamsError: it is not there, or cannot be used.
    """
    values = read(path)
    if name not in values:
        raise ParamsError(f"params.yaml cannot be used:\n{name} is missing; add it to params.yaml")
    return validated(values[name], schema, key=name)


def sections(schema: type[S], path: Path | None = None) -> S:
    """The sections that are fields of `schema`, as one object.

    Raises:
        ParamsError: one is not there, or cannot be used.
    """
    values = read(path)
    names = {field.alias or name for name, field in schema.model_fields.items()}
    return validated({name: value for name, value in values.items() if name in names}, schema)
