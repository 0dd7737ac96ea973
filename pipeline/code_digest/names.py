"""What the names in a piece of code mean: modules of the project, what they bind at top level, and what a definition refers to.

Nothing is imported or run. Where a name may mean several things, all of them are named; what cannot be known is said to be unknown, never left out.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.code_digest.form import canonical, says_nothing

PACKAGES = ("ganlib", "pipeline")
Chain = tuple[str, ...]  # a.b.c

_IS_MAIN = canonical(ast.parse("__name__ == '__main__'", mode="eval").body)
_LOOKS_LIKE_CODE = re.compile(r"[A-Za-z_][\w.\[\], |]*")  # "Play", "list[Play] | None": annotations that wait for their names
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Alias:
    """What an import binds: a module, or an attribute of one."""

    module: str
    attribute: str = ""


@dataclass(frozen=True)
class Target:
    """What a dotted name comes to.

    Attributes:
        module: of the project, or "" for what is outside.
        name: bound at the top level of `module`; "" where the module object itself is meant. The full dotted name of what is outside.
        rest: attributes of it.
    """

    module: str
    name: str
    rest: Chain = ()

    def __str__(self) -> str:
        return ".".join([f"{self.module}:{self.name}" if self.module else self.name, *self.rest])


@dataclass(eq=False)
class Unit:
    """One top-level statement that is no import.

    Attributes:
        names: bound by it, in nested statements too.
        label: unique in its module; "" for a statement that binds nothing.
    """

    module: str
    node: ast.stmt
    names: tuple[str, ...]
    label: str


@dataclass(frozen=True, eq=False)
class Module:
    """A file, parsed.

    Attributes:
        statements: in order, without those that say nothing and without `if __name__ == "__main__"`, which an import never runs.
        bindings: name -> units and aliases, all that bind it.
        imported: modules that importing this one imports.
        stars: modules of `from module import *`.
        used: every name that is read somewhere.
    """

    name: str
    is_package: bool
    statements: list[Unit | ast.Import | ast.ImportFrom] = field(default_factory=list)
    bindings: dict[str, list[Unit | Alias]] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @property
    def units(self) -> list[Unit]:
        return [statement for statement in self.statements if isinstance(statement, Unit)]

    @cached_property
    def rebound(self) -> frozenset[str]:
        """Names that more than one statement binds, so that the order of statements means something."""
        counts: dict[str, set[Unit | Alias]] = {}
        for statement in self.statements:
            if isinstance(statement, Unit):
                for name in statement.names:
                    counts.setdefault(name, set()).add(statement)
            else:
                for name, alias in aliases(statement, self):
                    counts.setdefault(name, set()).add(alias)
        return frozenset(name for name, bound in counts.items() if len(bound) > 1)


class Project:
    """The modules below `root` that belong to `PACKAGES`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def file(self, name: str) -> Path | None:
        if name.split(".")[0] not in PACKAGES:
            return None
        base = self.root.joinpath(*name.split("."))
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    def module(self, name: str) -> Module | None:
        """None for what is not of the project."""
        if name not in self._modules:
            path = self.file(name)
            self._modules[name] = None if path is None else _parse(name, path)
        return self._modules[name]

    def below(self, package: str) -> Iterator[str]:
        """The names of a module or package and of all modules below it."""
        yield package
        for path in sorted(self.root.joinpath(*package.split(".")).rglob("*.py")):
            yield ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def resolve(self, module: Module, chain: Chain) -> list[Target]:
        """What `chain` means at the top level of `module`: nothing for a builtin, or for a name nobody binds."""
        name = chain[0]
        found = [target for bound in module.bindings.get(name, ()) for target in self._of_binding(module, bound, chain, frozenset())]
        if not found:
            found = [target for star in module.stars if (there := self.module(star)) is not None for target in self.resolve(there, chain)]
        if not found and module.is_package and self.file(f"{module.name}.{name}") is not None:  # importing a submodule binds it
            found = self.follow(Alias(module.name, name), chain[1:])
        return found

    def follow(self, alias: Alias, rest: Chain, seen: frozenset[Target] = frozenset()) -> list[Target]:
        """What the attribute `rest` of an import comes to."""
        chain = (alias.attribute, *rest) if alias.attribute else rest
        module = self.module(alias.module)
        if module is None:
            return [Target("", ".".join((alias.module, *chain)))]
        if not chain:
            return [Target(alias.module, "")]
        here = Target(alias.module, chain[0])
        if here in seen:
            return []
        found = [target for bound in module.bindings.get(chain[0], ()) for target in self._of_binding(module, bound, chain, seen | {here})]
        submodule = f"{alias.module}.{chain[0]}"
        if self.file(submodule) is not None:
            found += self.follow(Alias(submodule), chain[1:], seen | {here})
        if not found:
            found = [target for star in module.stars for target in self.follow(Alias(star), chain, seen | {here}) if target.name]
        return found or [Target(alias.module, "", chain)]  # cannot be known: all of the module

    def _of_binding(self, module: Module, bound: Unit | Alias, chain: Chain, seen: frozenset[Target]) -> list[Target]:
        return [Target(module.name, chain[0], chain[1:])] if isinstance(bound, Unit) else self.follow(bound, chain[1:], seen)


def _parse(name: str, path: Path) -> Module:
    module = Module(name, is_package=path.name == "__init__.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    labels: dict[str, int] = {}
    for node in tree.body:
        for statement in _imported_body(node):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                module.statements.append(statement)
            else:
                names = tuple(local_names([statement], module))
                label = ",".join(names)
                labels[label] = labels.get(label, 0) + 1
                label += f" ({labels[label]})" if label and labels[label] > 1 else ""
                unit = Unit(name, statement, names, label)
                module.statements.append(unit)
                for bound in names:
                    module.bindings.setdefault(bound, []).append(unit)
            for inner in _outside_functions(statement):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    module.imported.extend(imports(inner, module))
                    for bound, alias in aliases(inner, module):
                        if bound == "*":
                            module.stars.append(alias.module)
                        elif alias not in module.bindings.setdefault(bound, []):
                            module.bindings[bound].append(alias)
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            module.used.add(part.id)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and _LOOKS_LIKE_CODE.fullmatch(part.value):
            module.used.update(re.findall(r"\w+", part.value))
    return module


def _imported_body(node: ast.stmt) -> list[ast.stmt]:
    """What of a top-level statement an import runs."""
    if isinstance(node, ast.If) and canonical(node.test) == _IS_MAIN:
        return [statement for statement in node.orelse if not says_nothing(statement)]
    return [] if says_nothing(node) else [node]


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def aliases(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, Alias]]:
    """(name, what it is bound to) of an import statement; `*` for all of a module."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, Alias(_source(node, module), alias.name)
        else:
            yield (alias.asname, Alias(alias.name)) if alias.asname else (alias.name.split(".")[0], Alias(alias.name.split(".")[0]))


def imports(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[str]:
    """Names of the modules that an import statement may run."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        yield (source := _source(node, module))
        yield from (f"{source}.{alias.name}" for alias in node.names)


def _source(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def local_names(nodes: Iterable[ast.AST], module: Module) -> dict[str, list[Alias]]:
    """Names that statements bind in their own scope, and what imports among them bind them to."""
    found: dict[str, list[Alias]] = {}
    elsewhere: set[str] = set()

    def visit(node: ast.AST, *, in_comprehension: bool) -> None:
        if isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, alias in aliases(node, module):
                found.setdefault(name, []).append(alias)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and not in_comprehension:  # there only := binds outside
            found.setdefault(node.id, [])
        elif isinstance(node, ast.NamedExpr):
            found.setdefault(node.target.id, [])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            if node.name:
                found.setdefault(node.name, [])
        elif isinstance(node, ast.MatchMapping) and node.rest:
            found.setdefault(node.rest, [])
        for child in _same_scope(node):
            visit(child, in_comprehension=in_comprehension or isinstance(node, COMPREHENSIONS))

    for node in nodes:
        visit(node, in_comprehension=False)
    return {name: bound for name, bound in found.items() if name not in elsewhere}


def globals_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that statements declare global in their own scope."""
    for node in nodes:
        if isinstance(node, ast.Global):
            yield from node.names
        yield from globals_in(_same_scope(node))


def _same_scope(node: ast.AST) -> list[ast.AST]:
    """The children of a node that are evaluated where it stands."""
    if isinstance(node, FUNCTIONS):
        return [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords]
    if isinstance(node, ast.Lambda):
        return [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    return list(ast.iter_child_nodes(node))


def dotted(node: ast.AST) -> Chain | None:
    """("a", "b", "c") of the expression a.b.c."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)) is not None:
        return (*base, node.attr)
    return None


def code_in(text: str) -> ast.expr | None:
    """The expression a string may stand for: a name, or a type that waits for its names."""
    if not _LOOKS_LIKE_CODE.fullmatch(text):
        return None
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None


def is_below(name: str, package: str) -> bool:
    """Whether a dotted name is a package or something in it."""
    return name == package or name.startswith(package + ".")
