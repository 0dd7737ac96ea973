"""Changing a params.yaml, comments kept: the one way to set a key, for recipes, `-S`, tests and benchmarks."""

from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib import tasks
from ganlib.config import Section
from ganlib.files import atomic_write
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig

# Mappings that are replaced whole: the options of one loss or term mean nothing to another, nor those of one network or optimizer.
WHOLE = frozenset({"regularizers", "loss_options", "augment", "options"})
OF_NETWORKS = frozenset({"model", "optim"})  # sections whose mappings are networks
# A recipe that has one of these describes all of it: what it leaves out goes back to its default, so that no recipe leaves anything behind.
# `model` only where it says `name`: else it changes a detail of whatever networks are there.
DESCRIBED: dict[str, type[Section]] = {"model": ModelConfig, "task": TaskConfig, "optim": OptimConfig}  # `task`: of the task that it names
# section -> keys of other sections that are described with it: the moving average belongs to how weights move, the rest of `train` to whoever trains.
BESIDE: dict[str, tuple[tuple[str, type[Section], str], ...]] = {"optim": (("train", TrainConfig, "ema_halflife_images"),)}


def overlay(base: MutableMapping[str, Any], changes: MutableMapping[str, Any], *, inside: str = "") -> None:
    """Lay `changes` over `base` in place; raises nothing: unknown keys are the validation's business."""
    for key, value in changes.items():
        is_whole = key in WHOLE or inside in OF_NETWORKS
        if isinstance(value, MutableMapping) and isinstance(base.get(key), MutableMapping) and not is_whole:
            overlay(base[key], value, inside=key)
        else:
            base[key] = value


def lay(base: MutableMapping[str, Any], recipe: MutableMapping[str, Any]) -> None:
    """Lay a recipe over the values of a params.yaml, in place."""
    _put_back(base, recipe)
    overlay(base, recipe)
    leave_out(base, recipe)


def _put_back(base: MutableMapping[str, Any], changes: MutableMapping[str, Any]) -> None:
    """Put back, in the sections of `base` that `changes` describes, every key that `changes` leaves out and that has a default."""
    for section, schema in DESCRIBED.items():
        described, there = changes.get(section), base.get(section)
        if (
            not isinstance(described, MutableMapping)
            or not isinstance(there, MutableMapping)
            or (section == "model" and "name" not in described)
        ):
            continue
        if section == "task":
            schema = _task_options(described) or schema
        for key in schema.model_fields:
            _to_default(schema, key, there, described)
        if section == "model":
            there.update({key: {} for key, value in there.items() if isinstance(value, MutableMapping) and key not in described})
        for other, other_schema, key in BESIDE.get(section, ()):
            _to_default(other_schema, key, base.get(other), changes.get(other) or {})


def _to_default(schema: type[Section], key: str, there: Any, described: Any) -> None:
    field = schema.model_fields[key]
    if isinstance(there, MutableMapping) and key in there and key not in described and not field.is_required():
        default = field.get_default(call_default_factory=True)
        there[key] = default.model_dump(mode="json") if isinstance(default, Section) else default


def _task_options(values: Any) -> type[Section] | None:
    """The schema of a section `task`; None where it names no task, which the validation says."""
    try:
        return tasks.options_of(values)
    except (ValueError, AttributeError):
        return None


def leave_out(base: MutableMapping[str, Any], changes: MutableMapping[str, Any]) -> None:
    """Take out what the task of `base` has not: keys of another task, and networks; unless `changes` ask for it, which the validation refuses."""
    task, schema = base.get("task") or {}, _task_options(base.get("task"))
    if schema is None or "task" not in changes:
        return
    asked = {section: changes.get(section) or {} for section in DESCRIBED}
    for key in [key for key in task if key not in schema.model_fields and key not in asked["task"]]:
        del task[key]
    try:
        chosen = schema.model_validate(dict(task))
    except ValueError:
        return
    networks = tasks.of(chosen).networks(chosen)  # type: ignore[arg-type]  # a task's options are a TaskConfig
    for section in OF_NETWORKS:
        there = base.get(section) or {}
        for key in [key for key, value in there.items() if isinstance(value, MutableMapping) and key not in networks]:
            if key not in asked[section]:
                del there[key]


def plain(path: Path) -> dict[str, Any]:
    """The values of a YAML file, as the stages read it.

    Raises:
        ValueError: it cannot be read, or holds no mapping.
    """
    values: dict[str, Any] = _mapping(path, YAML(typ="safe", pure=True))
    return values


def document(path: Path) -> Any:
    """A YAML file to be changed and written back, comments and quotes kept.

    Raises:
        ValueError: it cannot be read, or holds no mapping.
    """
    return _mapping(path, _keeping())


def write(values: Any, path: Path) -> None:
    """Write what `document` gave back to a file, whole or not at all."""
    from io import StringIO

    text = StringIO()
    _keeping().dump(values, text)
    atomic_write(path, text.getvalue().encode())


def set_value(values: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in place.

    Only the last part of a key may be new (an option that has a default): whether it is legal is the schema's business.

    Raises:
        ValueError: a key that leads nowhere; names what is there.
    """
    *sections, last = key.strip().split(".")
    place: Any = values
    for depth, section in enumerate(sections, start=1):
        if not isinstance(place.get(section), MutableMapping):
            legal = ", ".join(str(name) for name, value in place.items() if isinstance(value, MutableMapping)) or "none"
            raise ValueError(f"there is no section {'.'.join(sections[:depth])}; sections there: {legal}")
        place = place[section]
    if not sections and last not in place:
        raise ValueError(f"there is no key {last}; legal: {', '.join(map(str, place))}")
    place[last] = value


def override(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Write `section.key=value` overrides, as `dvc exp run -S` has them, into a YAML file; returns its values.

    Raises:
        ValueError: unreadable YAML, no `=`, or a key that leads nowhere.
    """
    values, overrides = document(path), list(overrides)
    override_values(values, overrides, where=path.name)
    if overrides:
        write(values, path)
    return plain(path)


def override_values(values: MutableMapping[str, Any], overrides: Iterable[str], *, where: str) -> None:
    """The same in place.

    Args:
        where: the file that they are of, for messages.

    Raises:
        ValueError: no `=`, or a key that leads nowhere.
    """
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"-S {item}: expected key=value, for example -S train.seed=1")
        try:
            set_value(values, key, _keeping().load(text))
        except YAMLError as error:
            raise ValueError(f"-S {item}: {text!r} is not a YAML value: {error}") from None
        except ValueError as error:
            raise ValueError(f"-S {item}: {where}: {error}") from None


def _keeping() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # never fold a long line
    yaml.indent(mapping=2, sequence=4, offset=2)  # as dvc.yaml has its lists
    return yaml


def _mapping(path: Path, yaml: YAML) -> Any:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, expected a mapping of sections")
    return values
