"""What settings are made of: frozen pydantic models that refuse unknown keys, and errors a user can act on.

A section's schema stands beside its user (`ganlib/data/settings.py`, `ganlib/optim.py`, ...). Its field descriptions are the reference: what a key
means, its unit and its legal values. Names of registered things (a loss, a network) are strings there and are resolved by whoever builds them,
with `Registry.get`, so that a stage imports only what it runs.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model


class Section(BaseModel):
    """A block of settings: keyword-only, immutable, strict about unknown keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=BaseModel)
D = TypeVar("D")
NUMBER, SCHEDULE = "<number>", "<schedule>"  # the two kinds of a number that can be scheduled (ganlib.schedule); no key is called so


def construct(cls: type[D], values: dict[str, Any], *, key: str) -> D:
    """An instance of a dataclass of options (a loss, a penalty, an optimizer) from the mapping at `key` of params.yaml.

    Raises:
        ValueError: unknown names, wrong types, or what the class itself refuses.
    """
    hints = get_type_hints(cls)
    known: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        is_tuple = get_origin(hints[field.name]) is tuple  # YAML has lists only
        default = ... if field.default is dataclasses.MISSING else field.default
        is_literal = get_origin(hints[field.name]) is Literal  # strict by itself
        known[field.name] = (hints[field.name], Field(default, strict=None if is_literal else not is_tuple))
    checked = options(create_model(cls.__name__, __base__=Section, **known), values, key=key)
    return cls(**{name: getattr(checked, name) for name in known})


def options(schema: type[S], values: dict[str, Any], *, key: str) -> S:
    """Validate `values` against `schema`; `key` is their place in params.yaml.

    Raises:
        ValueError: one line a problem: the key, the value, what is legal.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error, schema, key=key)) from None


def explain(error: ValidationError, schema: type[BaseModel], *, key: str = "") -> str:
    """A pydantic error as lines a user can act on: `train.batch_image is not a known key (did you mean batch_images?); legal: ...`."""
    lines = []
    for item in error.errors():
        steps = [str(part) for part in item["loc"]]
        path = [part for part in steps if part not in (NUMBER, SCHEDULE)]
        where = ".".join(([key] if key else []) + path)
        if item["type"] == "extra_forbidden":
            lines.append(unknown_key(where, item["input"], _keys(_owner(schema, path))))
        elif item["type"] in ("model_type", "dict_type") and len(path) > 0 and _is_extra(owner := _owner(schema, path), path[-1]):
            lines.append(f"{unknown_key(where, item['input'], _keys(owner))}, or the name of a network with a mapping")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing; add it to params.yaml")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]) if "ctx" in item else item["msg"])
        else:
            lines.append(f"{where}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "\n".join(lines)


def unknown_key(where: str, value: Any, legal: Iterable[str]) -> str:
    """What is said of a key that nobody knows; `legal` are those in its place."""
    names = sorted(legal)
    near = difflib.get_close_matches(where.rpartition(".")[2], names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{where}={value!r} is not a known key{hint}; legal: {', '.join(names)}"


def _owner(schema: Any, path: list[str]) -> Any:
    """The section that holds the last part of `path`; None where none does."""
    owner: Any = schema
    for part in path[:-1]:
        if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
            return None
        held = owner.model_fields[part].annotation if part in owner.model_fields else get_type_hints(owner).get("__pydantic_extra__")
        owner = _section_in(held)
    return owner if isinstance(owner, type) and issubclass(owner, BaseModel) else None


def _keys(owner: Any) -> list[str]:
    return [] if owner is None else [field.alias or name for name, field in owner.model_fields.items()]


def _is_extra(owner: Any, key: str) -> bool:
    return owner is not None and owner.model_config.get("extra") == "allow" and key not in owner.model_fields


def _section_in(annotation: Any) -> Any:
    """The section that a field holds, or may hold; else the annotation as it is."""
    for part in get_args(annotation):
        if isinstance(found := _section_in(part), type) and issubclass(found, BaseModel):
            return found
    return annotation
