"""`python -m pipeline.recipe recipes/NAME.yaml`: lay a recipe over params.yaml, comments kept, and check the result before it is written."""

import argparse
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.config import ModelConfig, OptimConfig, Section, TaskConfig
from ganlib.files import atomic_write
from pipeline import cli, params
from pipeline.params import ROOT

# Sections whose mappings are replaced whole: the options of one network or optimizer mean nothing to another.
WHOLE = frozenset({"generator", "discriminator", "regularizers", "loss_options", "augment", "options"})
# A recipe that has one of these describes all of it: what it leaves out goes back to its default, so that no recipe leaves anything behind.
# `model` only where it says `name`: else it changes a detail of whatever networks are there.
DESCRIBED: dict[str, type[Section]] = {"model": ModelConfig, "task": TaskConfig, "optim": OptimConfig}


def overlay(base: MutableMapping[str, Any], changes: MutableMapping[str, Any]) -> None:
    """Lay `changes` over `base` in place; raises nothing: unknown keys are the validation's business."""
    for key, value in changes.items():
        if isinstance(value, MutableMapping) and isinstance(base.get(key), MutableMapping) and key not in WHOLE:
            overlay(base[key], value)
        else:
            base[key] = value


def lay(base: MutableMapping[str, Any], recipe: MutableMapping[str, Any]) -> None:
    """Lay a recipe over the values of a params.yaml, in place."""
    _put_back(base, recipe)
    overlay(base, recipe)


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
        for key, field in schema.model_fields.items():
            if key in there and key not in described and not field.is_required():
                there[key] = field.get_default(call_default_factory=True)


def apply(recipe: Path, target: Path) -> None:
    """Rewrite `target` (a params.yaml) with the recipe laid over it.

    Raises:
        ValueError: the recipe is no YAML mapping, or the result is no valid params.yaml; `target` is then untouched.
    """
    yaml = YAML()
    yaml.width = 140
    try:
        changes = YAML(typ="safe", pure=True).load(recipe.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ValueError(
            f"{recipe} cannot be read: {error}; recipes: {', '.join(sorted(p.name for p in recipe.parent.glob('*.yaml')))}"
        ) from None
    if not isinstance(changes, dict):
        raise ValueError(f"{recipe} holds {type(changes).__name__}, expected a mapping of sections")
    values = yaml.load(target.read_text(encoding="utf-8"))
    lay(values, changes)
    temporary = target.with_name(f".{target.name}.checked")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(values, file)
        params.load(temporary)
        atomic_write(target, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.recipe", description=__doc__)
    parser.add_argument("recipe", type=Path)
    recipe = parser.parse_args().recipe
    apply(recipe, ROOT / "params.yaml")
    print(f"params.yaml now follows {recipe}; `git diff params.yaml` shows how, `dvc repro` runs it")


if __name__ == "__main__":
    cli.run(main)
