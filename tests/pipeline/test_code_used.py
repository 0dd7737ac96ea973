"""What a training runs, against the digest of its code: nothing may run, or be handed out by a registry, that the digest does not hold.

A definition that is missing would restore the weights of another code. This is the check of the closure that does not share its reasoning: it
watches each recipe train, be interrupted and resume.
"""

import ast
import copy
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from ganlib.augment import AUGMENTATIONS
from ganlib.data.arrow import ArrowWriter
from ganlib.losses import LOSSES
from ganlib.models import MODELS
from ganlib.optim import OPTIMIZERS
from ganlib.registry import Registry
from ganlib.regularizers import REGULARIZERS
from ganlib.tasks import TASKS
from ganlib.training.hooks import AgreeHook
from ganlib.training.loop import Interrupted, TrainingSpec, train
from ganlib.training.step import DivergenceError
from pipeline import edit, identity, preflight
from pipeline.code_digest import strings_in
from pipeline.schema import Params

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
RECIPES: dict[str, dict[str, Any]] = {
    name: YAML(typ="safe", pure=True).load(path.read_text()) for name, path in {"params.yaml": ROOT / "params.yaml", **FILES}.items()
}
# What no recipe has.
RECIPES["the rest"] = {
    "task": {
        "regularizers": {"consistency": {}, "balanced_consistency": {}},
        "augment": {"instance_noise": {}},
        "label_noise": 0.1,
        "gradient_normalization": True,
    },
    "optim": {name: {"name": "adamw", "lr": 1e-3, "max_gradient_norm": 1.0} for name in ("generator", "discriminator")},
    "train": {"augment": {"hflip": {}}},
}
RECIPES["diverging"] = {
    "optim": {name: {"name": "sgd", "lr": 1e30} for name in ("generator", "discriminator")},
    "train": {"on_divergence": "rollback", "max_rollbacks": 1},
}
# Registry -> settings that ask for one of its entries: those that nothing above names are trained too, so a new one needs no line here.
ASKING: dict[str, tuple[Registry[Any], Callable[[str], dict[str, Any]]]] = {
    "loss": (LOSSES, lambda name: {"task": {"loss": name}}),
    "regularizer": (
        REGULARIZERS,
        lambda name: {"task": {"regularizers": {name: {}}}, "model": {"name": "dcgan", "discriminator": {"normalization": "none"}}},
    ),
    "optimizer": (OPTIMIZERS, lambda name: {"optim": {network: {"name": name, "lr": 1e-3} for network in ("generator", "discriminator")}}),
    "augmentation": (AUGMENTATIONS, lambda name: {"task": {"augment": {name: {}}}}),
    "family": (MODELS, lambda name: {"model": {"name": name}}),
    "task": (TASKS, lambda name: {"task": {"name": name}}),
}
NAMED = {text for values in RECIPES.values() for text in strings_in(values)}
RECIPES |= {f"{kind} {name}": asking(name) for kind, (registry, asking) in ASKING.items() for name in registry.names() if name not in NAMED}
REGISTRIES = [registry for registry, _ in ASKING.values()]


def params_of(name: str) -> Params:
    """params.yaml with a recipe laid over it, for trainings of three steps on 8x8 images."""
    values = copy.deepcopy(RECIPES["params.yaml"])
    edit.lay(values, copy.deepcopy(RECIPES[name]))
    values["data"]["image_size"] = [8, 8]
    images = 8 * values["task"].get("discriminator_repeats", 1)  # of one step
    values["train"] |= {
        "batch_images": 8,
        "total_images": 3 * images,
        "history_interval_images": images,
        "checkpoint_interval_images": 4 * images,
    }
    return preflight.parse(values)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.arrow"
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    with ArrowWriter(path, shape=(1, 8, 8), class_names=["left", "top"]) as writer:
        writer.append(images, np.repeat(np.arange(2), 30))
    return path


class Watched:
    """What ran and what was handed out, as names of parts."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.constructed: set[type] = set()
        self.handed_out: set[tuple[str, str, type]] = set()  # (package of the registry, entry, class)

    def see(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(str(ROOT / "ganlib")):
            self.codes.add(code)
        elif code.co_filename == "<string>" and str(frame.f_globals.get("__name__")).startswith("ganlib"):  # a method a dataclass made
            self.constructed.add(type(frame.f_locals[code.co_varnames[0]]))

    def parts(self) -> set[str]:
        """Of every function that ran; bodies of modules and classes are no functions."""
        functions = {code for code in self.codes if code.co_flags & inspect.CO_OPTIMIZED}
        ran = {part_at(Path(code.co_filename), code.co_firstlineno) for code in functions}
        return ran | {part_of_class(cls) for cls in self.constructed} | {part_of_class(cls) for _, _, cls in self.handed_out}


@cache
def top_level(path: Path) -> list[tuple[int, int, str]]:
    """(first line, last line, part) of every top-level statement."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = []
    for node in ast.parse(path.read_text()).body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        stored = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        name = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else next(stored, "<module>")
        found.append((first, node.end_lineno or first, f"{module}:{name}"))
    return found


def part_at(path: Path, line: int) -> str:
    (part,) = (part for first, last, part in top_level(path) if first <= line <= last)
    return part


def class_of(entry: Any) -> Any:
    return entry if isinstance(entry, type | FunctionType) else type(entry)


def part_of_class(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__.split('.')[0]}"


@contextmanager
def watching(monkeypatch) -> Iterator[Watched]:
    watched = Watched()
    get, entries = Registry.get, Registry.__iter__

    def hand_out(registry: Registry[Any], name: str, value: Any) -> None:
        watched.handed_out.add((registry.package, name, class_of(value)))

    def watched_get(self, name, *, key=""):
        value = get(self, name, key=key)
        hand_out(self, name, value)
        return value

    def watched_entries(self):
        for entry in entries(self):
            hand_out(self, entry.name, entry.value)
            yield entry

    monkeypatch.setattr(Registry, "get", watched_get)
    monkeypatch.setattr(Registry, "__iter__", watched_entries)
    before = sys.gettrace()
    threading.settrace(watched.see)  # the journal's thread
    sys.settrace(watched.see)
    try:
        yield watched
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_all_that_a_training_runs_lies_inside_the_digest(name, data, tmp_path, monkeypatch):
    """Kills: a reference that is not followed (leave out decorators, bases, defaults or annotations in `Reading`), a registry whose package is not
    imported, an entry that no setting names but code does; and an entry that counts without being asked for.
    """
    config = params_of(name)
    parts = identity.training_code(config).parts
    spec = TrainingSpec(
        data=str(data), folder=str(tmp_path), model=config.model, task=config.task, optim=config.optim, train=config.train, threads=1
    )
    monkeypatch.setattr(AgreeHook, "FIRST_STEPS", 1)
    monkeypatch.setattr("ganlib.training.hooks.CALIBRATION_BATCHES", 2)
    asked = iter([True, *[False] * 1000])
    with watching(monkeypatch) as watched:
        with pytest.raises(DivergenceError if name == "diverging" else Interrupted):
            train(spec, should_stop=lambda: next(asked))
        if name != "diverging":
            assert train(spec).stage == (1 if name == "progressive" else 0)  # the stages were gone through
    assert sorted(watched.parts() - set(parts)) == []
    assert len(watched.parts()) > 90  # it did look
    asked_for = {(package, entry) for package, entry, _ in watched.handed_out}  # a copy: what follows goes through all of them
    counted = {(r.package, entry.name) for r in REGISTRIES for entry in r if part_of_class(class_of(entry.value)) in parts}
    assert counted - asked_for == set()


def test_every_entry_of_a_registry_is_watched_in_some_training():
    """A new loss is watched too, or this says where to name it. Kills: a recipe or an entry that drops out."""
    named = {text for name in RECIPES for text in strings_in(identity.training_settings(params_of(name)))}
    missing = [f"{registry.kind} {name}" for registry in REGISTRIES for name in registry.names() if name not in named]
    assert missing == [], "say in ASKING how they are asked for"
