"""`python -m ganlib.catalog`: everything params.yaml can name, one line each with its paper; `--json` for programs."""

import argparse
import json
from typing import Any

from ganlib.augment import AUGMENTATIONS
from ganlib.data.sources import SOURCES
from ganlib.losses import LOSSES
from ganlib.metrics import EXTRACTORS, METRICS
from ganlib.models import MODELS
from ganlib.optim import OPTIMIZERS
from ganlib.registry import Registry
from ganlib.regularizers import REGULARIZERS
from ganlib.tasks import TASKS

# section -> (key of params.yaml, registry)
SECTIONS: dict[str, tuple[str, Registry[Any]]] = {
    "sources": ("data.source", SOURCES),
    "networks": ("model.name", MODELS),
    "tasks": ("task.name", TASKS),
    "losses": ("task.loss", LOSSES),
    "regularizers": ("task.regularizers", REGULARIZERS),
    "optimizers": ("optim.*.name", OPTIMIZERS),
    "augmentations": ("train.augment, task.augment", AUGMENTATIONS),
    "extractors": ("reference.extractor", EXTRACTORS),
    "metrics": ("evaluate.metrics", METRICS),
}


def catalog() -> dict[str, list[dict[str, str]]]:
    """Section -> entries with `name`, `key` (where in params.yaml it can stand), `summary` and `paper` ("" where there is none)."""
    return {
        section: [{"name": entry.name, "key": key, "summary": entry.summary, "paper": entry.paper} for entry in registry]
        for section, (key, registry) in SECTIONS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ganlib.catalog", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    if parser.parse_args().json:
        print(json.dumps(catalog(), indent=1))
        return
    for section, entries in catalog().items():
        print(f"{section} ({SECTIONS[section][0]})")
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            paper = f"  [{entry['paper']}]" if entry["paper"] else ""
            print(f"  {entry['name']:<{width}}  {entry['summary']}{paper}")


if __name__ == "__main__":
    main()
