"""params.yaml as a stage sees it: its own sections. That the whole file makes sense is checked before any work, by `pipeline.preflight`."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.config import Section, explain

ROOT = Path(__file__).resolve().parent.parent  # the project: stages run with it as the current folder

S = TypeVar("S", bound=Section)


class ParamsError(ValueError):
    """params.yaml cannot be used; the message lists every problem."""


def read(path: Path | None = None) -> dict[str, Any]:
    """The values of params.yaml, unchecked.

    Raises:
        ParamsError: unreadable YAML, or no mapping.
    """
    path = path or ROOT / "params.yaml"
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
