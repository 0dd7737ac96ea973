"""The code of a training, definition by definition: what `train` can reach, each with one hash of what it means.

From the roots, names are followed to the functions, classes and assignments of this project that they can mean, across imports. A class counts whole,
annotations count, and so does what a string names that looks like one. A module that is imported counts with the statements that do something when it
is imported (`effects`); a definition in it only when something reaches it.

An entry of a `Registry` counts when the registry is asked and a setting, or any constant in the code that counts, is its name: another loss or family
in the same file moves nothing. (The default of a setting is no such constant: where it holds, it is among the settings.)

What cannot be resolved counts as used: of a registry that is asked for a computed name, every entry; of a module that is passed around, every
definition; after `importlib` or `sys.modules`, all there is.

What it cannot see is a name that is put together in one function and handed to a registry in another. tests/pipeline/test_code_used.py compares with
what really runs, for every recipe.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.code_digest.effects import REGISTRY, Effects
from pipeline.code_digest.form import canonical, digest
from pipeline.code_digest.names import PACKAGES, Alias, Module, Project, Target, Unit, aliases
from pipeline.code_digest.reading import Reading, Reference
from pipeline.garbage import uncollected

ON_IMPORT = "<module>"  # the part that stands for what importing a module does


@dataclass(frozen=True)
class Definitions:
    """Every definition that counts.

    Attributes:
        parts: "ganlib.losses:Hinge" -> sha256 of what it means; "ganlib.losses:<module>" for what importing the module does.
    """

    parts: dict[str, str]

    @property
    def digest(self) -> str:
        return digest(sorted(self.parts.items()))


def definitions(roots: Iterable[str], *, names: Collection[str], root: Path, settings: Collection[str] = ()) -> Definitions:
    """What code below `root` can run from `roots`.

    Args:
        roots: "ganlib.training.loop:train".
        names: every string of the settings (`strings_in`): an entry of a registry may be asked for by any of them.
        settings: classes all of whose values are among `names`, as "ganlib.config:TaskConfig": what their fields default to asks for nothing.

    Raises:
        ValueError: a root that does not exist.
    """
    with uncollected():  # a third of the time: it would look through all syntax trees again and again
        return _Closure(Project(root), names, settings).of(roots)


def strings_in(value: Any) -> set[str]:
    """All strings of plain values, keys too."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return strings_in([*value, *value.values()])
    return {text for item in value for text in strings_in(item)} if isinstance(value, list | tuple) else set()


@dataclass(eq=False)
class _Closure:
    """The walk. Everything only grows, so the order in which it goes does not matter.

    Attributes:
        readings: of every statement that counts.
        acting: those among them that count because their module is imported.
        entries: registry -> (name, statement), of every module that is imported.
        asked: registry -> whether all of its entries count.
        strings: constants in the code that counts.
    """

    project: Project
    names: Collection[str]
    settings: Collection[str]
    readings: dict[Unit, Reading] = field(default_factory=dict)
    acting: set[Unit] = field(default_factory=set)
    imported: dict[str, Module] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    entries: dict[Target, list[tuple[str | None, Unit]]] = field(default_factory=dict)
    asked: dict[Target, bool] = field(default_factory=dict)
    strings: set[str] = field(default_factory=set)
    waiting: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.effects = Effects(self.project)

    def of(self, roots: Iterable[str]) -> Definitions:
        for root in roots:
            name, _, definition = root.partition(":")
            module = self.project.module(name)
            if module is None or definition not in module.bindings:
                raise ValueError(f"{root!r} is no definition below {self.project.root}; expected one like 'ganlib.training.loop:train'")
            self._import(name)
            for target in self.project.resolve(module, (definition,)):
                self._reach(target)
        while self.waiting:
            while self.waiting:
                self._read(self.waiting.pop())
            for registry, all_count in self.asked.items():
                for entry, unit in self.entries.get(registry, ()):
                    if all_count or entry is None or entry in self.names or entry in self.strings:
                        self._count(unit)
        return Definitions(dict(sorted(self._parts())))

    def _count(self, unit: Unit) -> None:
        if unit not in self.readings:
            module = self._import(unit.module)
            assert module is not None
            if unit not in self.readings:  # importing the module may have counted it
                self.readings[unit] = Reading(self.project, module, self._is_registry)
                self.waiting.append(unit)

    def _read(self, unit: Unit) -> None:
        reading = self.readings[unit]
        reading.visit(unit.node, [])
        self.strings |= reading.strings | (reading.defaults if f"{unit.module}:{unit.label}" not in self.settings else set())
        for module in reading.imports:
            self._import(module)
        is_registry = (unit.module, unit.label) == (REGISTRY.module, REGISTRY.name)  # imports its packages, which is known here
        makes_registry = any(self._is_registry(Target(unit.module, name)) for name in unit.names)
        if reading.needs_module:
            self._whole(unit.module)
        if reading.needs_all and not is_registry:
            self._everything()
        for reference in reading.references:
            for target in reference.targets:
                self._reach(target)
                if target == REGISTRY and not (reference.is_type or makes_registry or is_registry):
                    self._everything()  # a registry whose package is not known
                self._note_use(target, reference)

    def _is_registry(self, target: Target) -> bool:
        return self.effects.package_of(target) is not None

    def _reach(self, target: Target) -> None:
        if target.module and not target.name:
            self._whole(target.module)
        elif target.module:
            module = self._import(target.module)
            for bound in module.bindings[target.name] if module is not None else ():
                if isinstance(bound, Unit):
                    self._count(bound)

    def _note_use(self, target: Target, reference: Reference) -> None:
        """Of a registry: `X.get(name)` asks for what is named, `X.register(...)` for nothing, anything else for all."""
        is_filing = target.rest == ("register",) and reference.asked is not None
        is_named = target.rest == ("get",) and reference.asked is not None and reference.asked.is_passed_on
        if not reference.is_type and not is_filing:
            self._ask(Target(target.module, target.name), for_all=not is_named)

    def _ask(self, target: Target, *, for_all: bool) -> None:
        package = self.effects.package_of(target)
        if package is not None:
            if target not in self.asked:
                for module in self.project.below(package):
                    self._import(module)
            self.asked[target] = self.asked.get(target, False) or for_all

    def _whole(self, name: str) -> None:
        """Every definition of a module and what it imports by name; of a package, all modules below it too."""
        module = self._import(name)
        if module is None or name in self.whole:
            return
        self.whole.add(name)
        for unit in module.units:
            self._count(unit)
            for bound in unit.names:
                self._ask(Target(name, bound), for_all=True)
        for alias in (one for found in module.bindings.values() for one in found if isinstance(one, Alias)):
            for target in self.project.follow(alias, ()):
                if target.name:
                    self._reach(target)
        if module.is_package:
            for below in self.project.below(name):
                self._whole(below)

    def _everything(self) -> None:
        for package in PACKAGES:
            self._whole(package)

    def _import(self, name: str) -> Module | None:
        """What importing a module does, the `__init__` of its packages first; None for what is not of the project."""
        module = self.project.module(name)
        if module is None or name in self.imported:
            return module
        self.imported[name] = module
        self._import(name.rpartition(".")[0])
        for other in module.imported:
            self._import(other)
        for star in module.stars:
            self._whole(star)
        for unit in module.units:
            for registry, entry in self.effects.entries(unit):
                self.entries.setdefault(registry, []).append((entry, unit))
            if not module.rebound.isdisjoint(unit.names) or self.effects.acts(unit):
                self.acting.add(unit)
                self._count(unit)
        return module

    # forms

    def _parts(self) -> Iterator[tuple[str, str]]:
        for unit in self.readings:
            if label := self._label(unit):
                yield f"{unit.module}:{label}", digest(self._form(unit))
        for name, module in self.imported.items():
            if statements := self._on_import(module):
                yield f"{name}:{ON_IMPORT}", digest(statements)

    def _label(self, unit: Unit) -> str:
        """The name of a statement as a part; "" for one that is a line of its module's import."""
        named = [f"{registry.name}.{entry}" for registry, entry in self.effects.entries(unit) if entry is not None]
        return unit.label or ",".join(named)

    def _form(self, unit: Unit) -> list[Any]:
        """What a statement says, and what the names in it are."""
        reading = self.readings[unit]
        meant = {(".".join(reference.chain), str(target)) for reference in reading.references for target in reference.targets}
        return [canonical(unit.node, without=reading.for_readers), sorted(meant)]

    def _on_import(self, module: Module) -> list[Any]:
        """What importing a module does, in order; nothing where it only binds names."""
        lines: list[Any] = []
        acts = False
        for statement in module.statements:
            if not isinstance(statement, Unit):
                bound = list(aliases(statement, module))
                is_for_effect = any(self.project.module(alias.module) is None and name not in module.used for name, alias in bound)
                if is_for_effect or any(name == "*" or name in module.rebound for name, _ in bound):
                    lines.append(canonical(statement))
                    acts = True
            elif statement in self.readings:
                label = self._label(statement)
                lines.append(label or self._form(statement))
                acts |= not label or statement in self.acting
        return lines if acts else []
