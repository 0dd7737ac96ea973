"""`python -m ganlib.catalog [NAME ...]`: all that params.yaml can name, a line each with its paper; of a NAME its options; `--json` for programs."""

import argparse
import dataclasses
import json
from typing import Any

from pydantic import BaseModel

from ganlib.augment import AUGMENTATIONS
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.losses import LOSSES
from ganlib.metrics import EXTRACTORS, METRICS
from ganlib.metrics.settings import EvaluateConfig, ReferenceConfig
from ganlib.modalities import MODALITIES
from ganlib.models import MODELS
from ganlib.models.settings import ModelConfig
from ganlib.optim import OPTIMIZERS, OptimConfig, OptimizerConfig
from ganlib.registry import Registry
from ganlib.regularizers import REGULARIZERS
from ganlib.sample_settings import SampleConfig
from ganlib.tasks import TASKS
from ganlib.tasks.settings import TaskConfig
from ganlib.train_settings import TrainConfig

# section -> (key of params.yaml, registry)
SECTIONS: dict[str, tuple[str, Registry[Any]]] = {
    "sources": ("data.source", SOURCES),
    "modalities": ("data.modality", MODALITIES),
    "networks": ("model.name", MODELS),
    "tasks": ("task.name", TASKS),
    "losses": ("task.loss", LOSSES),
    "regularizers": ("task.regularizers", REGULARIZERS),
    "optimizers": ("optim.*.name", OPTIMIZERS),
    "augmentations": ("train.augment, task.augment", AUGMENTATIONS),
    "extractors": ("reference.extractor", EXTRACTORS),
    "metrics": ("evaluate.metrics", METRICS),
}


# keys of params.yaml that are settings, not names
SETTINGS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "task": TaskConfig,
    "optim": OptimConfig,
    "optim.*": OptimizerConfig,
    "train": TrainConfig,
    "sample": SampleConfig,
    "reference": ReferenceConfig,
    "evaluate": EvaluateConfig,
}


def catalog() -> dict[str, list[dict[str, Any]]]:
    """Section -> entries.

    An entry has `name`, `key` (where in params.yaml it can stand), `summary`, `paper` ("" where there is none) and `options`: name -> its default and
    what it means, where that is written down; those of a network family begin with a role: `generator.width`. The last section, `settings`,
    holds the keys of params.yaml themselves.
    """
    listed: dict[str, list[dict[str, Any]]] = {
        section: [
            {"name": entry.name, "key": key, "summary": entry.summary, "paper": entry.paper, "options": _options(entry.value)}
            for entry in registry
        ]
        for section, (key, registry) in SECTIONS.items()
    }
    listed["settings"] = [
        {
            "name": name,
            "key": f"{section}.{name}",
            "summary": option["description"],
            "paper": "",
            "options": {},
            "default": option["default"],
        }
        for section, options in _settings().items()
        for name, option in options.items()
    ]
    return listed


def _settings() -> dict[str, dict[str, dict[str, Any]]]:
    """Section -> its keys; `task` has those of every task."""
    sections = {section: _fields(schema) for section, schema in SETTINGS.items()}
    for entry in TASKS:
        sections["task"] = _fields(entry.value.options) | sections["task"]
    return sections


def _options(value: Any) -> dict[str, dict[str, Any]]:
    """Of a dataclass its fields, of a task its keys, of a network family the options of each role."""
    if dataclasses.is_dataclass(value):
        return {field.name: {"default": _plain(field.default), "description": ""} for field in dataclasses.fields(value)}
    if value in [entry.value for entry in TASKS]:
        return {name: option for name, option in _fields(value.options).items() if name not in TaskConfig.model_fields}
    if value not in [entry.value for entry in MODELS]:
        return {}
    schemas = {role: getattr(value, f"{role}_options") for role in value.roles}
    return {f"{role}.{name}": option for role, schema in schemas.items() for name, option in _fields(schema).items()}


def _fields(schema: type[BaseModel]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "default": None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            "description": field.description or "",
        }
        for name, field in schema.model_fields.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return None if value is dataclasses.MISSING else list(value) if isinstance(value, tuple) else value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ganlib.catalog", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, with their options")
    args = parser.parse_args()
    listed = catalog()
    if args.names:
        known = {entry["name"] for entries in listed.values() for entry in entries}
        if unknown := [name for name in args.names if name not in known]:
            parser.error(f"nothing is called {', '.join(unknown)}; `python -m ganlib.catalog` lists what there is")
        listed = {section: [entry for entry in entries if entry["name"] in args.names] for section, entries in listed.items()}
    if args.json:
        print(json.dumps(listed, indent=1))
        return
    for section, entries in listed.items():
        if not entries or (section == "settings" and not args.names):
            continue
        print(f"{section} ({SECTIONS[section][0] if section in SECTIONS else 'params.yaml'})")
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            paper = f"  [{entry['paper']}]" if entry["paper"] else ""
            print(f"  {entry['name']:<{width}}  {entry['summary']}{paper}")
            for name, option in entry["options"].items() if args.names else ():
                print(f"      {name}: {json.dumps(option['default'])}{'  ' if option['description'] else ''}{option['description']}")


if __name__ == "__main__":
    main()
