"""What a definition refers to: every use of a name, with what it can mean, and whether something is used that no reading can follow."""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.code_digest.form import says_nothing
from pipeline.code_digest.names import (
    COMPREHENSIONS,
    FUNCTIONS,
    Alias,
    Chain,
    Module,
    Project,
    Target,
    code_in,
    dotted,
    globals_in,
    imports,
    is_below,
    local_names,
)

# Keywords that only people read, where they are plain text.
OF_ENTRIES = frozenset({"paper", "summary"})
OF_FIELDS = frozenset({"description"})
PYDANTIC_FIELDS = frozenset({"pydantic.Field", "pydantic.fields.Field"})
# With these, anything of a module, or of all of them, may be meant.
OF_THIS_MODULE = frozenset({"globals", "vars", "eval", "exec"})
OF_ALL_MODULES = (
    "__import__",
    "importlib",
    "inspect.currentframe",
    "inspect.getmodule",
    "inspect.stack",
    "pkgutil",
    "runpy",
    "sys._getframe",
    "sys.modules",
)
OF_FILES = "importlib.resources"  # the package it is asked for is installed, and none of ours: it finds files
OF_ALL_ATTRIBUTES = frozenset({"__subclasses__", "__globals__"})


@dataclass(frozen=True)
class Reference:
    """One use of a name.

    Attributes:
        is_type: in an annotation: nothing is called.
        asked: an argument of the call that this is the function of, or None where it is not called.
    """

    chain: Chain
    targets: tuple[Target, ...]
    is_type: bool
    asked: "Asked | None"


@dataclass(frozen=True)
class Asked:
    """How a registry is asked: for one constant, for a name that is passed on as it came, or for a computed one."""

    constant: str | None
    is_passed_on: bool


@dataclass(eq=False)
class Scope:
    """Names of one function, lambda or comprehension, or imports of a class body.

    Attributes:
        computed: names that were given something else than a name or a constant.
    """

    bound: dict[str, list[Alias]]
    is_global: frozenset[str] = frozenset()
    is_class: bool = False
    computed: frozenset[str] = frozenset()


@dataclass(eq=False)
class Reading:
    """What a definition refers to.

    Attributes:
        strings: constants in it; `defaults`: those of them that a class gives its fields.
        imports: modules it imports when it runs.
        for_readers: keywords that mean nothing.
        needs_module: anything of its module may be meant; `needs_all`: of any module.
    """

    project: Project
    module: Module
    is_registry: Callable[[Target], bool]
    references: list[Reference] = field(default_factory=list)
    strings: set[str] = field(default_factory=set)
    defaults: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    for_readers: set[ast.AST] = field(default_factory=set)
    needs_module: bool = False
    needs_all: bool = False

    def visit(self, node: ast.AST, scopes: list[Scope], *, is_type: bool = False) -> None:
        if says_nothing(node):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports.update(imports(node, self.module))
        elif isinstance(node, ast.Constant):
            self._string(node, scopes)
        elif isinstance(node, ast.Name | ast.Attribute) and (chain := dotted(node)) is not None:
            if isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
                self._name(chain, scopes, is_type=is_type)
        elif isinstance(node, ast.Call):
            self._call(node, scopes, is_type=is_type)
        elif isinstance(node, (*FUNCTIONS, ast.Lambda)):
            self._function(node, scopes)
        elif isinstance(node, ast.ClassDef):
            self._all([*node.decorator_list, *node.bases, *node.keywords, *getattr(node, "type_params", [])], scopes)
            bound = local_names(node.body, self.module)
            inside = [*scopes, Scope(bound, is_class=True)]
            for name, aliases in bound.items():  # an import in a class is an attribute of it
                self._name((name,), [Scope({name: aliases})], is_type=False)
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            self._all([part for part in node.body if part not in fields], inside)
            before, self.strings = self.strings, set()
            self._all(fields, inside)
            self.defaults, self.strings = self.defaults | self.strings, before
        elif isinstance(node, COMPREHENSIONS):
            self._comprehension(node, scopes)
        elif isinstance(node, ast.AnnAssign):
            self.visit(node.annotation, scopes, is_type=True)
            self._all([node.target, *([node.value] if node.value else [])], scopes)
        else:
            if isinstance(node, ast.Attribute):
                self.needs_all |= node.attr in OF_ALL_ATTRIBUTES
            self._all(ast.iter_child_nodes(node), scopes, is_type=is_type)

    def _all(self, nodes: Iterable[ast.AST], scopes: list[Scope], *, is_type: bool = False) -> None:
        for node in nodes:
            self.visit(node, scopes, is_type=is_type)

    def _string(self, node: ast.Constant, scopes: list[Scope]) -> None:
        if not isinstance(node.value, str):
            return
        self.strings.add(node.value)
        code = code_in(node.value)
        for part in ast.walk(code) if code is not None else ():
            chain = dotted(part)
            if chain is not None:
                targets = tuple(target for target in self._targets(chain, scopes) if target.module and target.name)
                self.references.append(Reference(chain, targets, True, None))

    def _name(self, chain: Chain, scopes: list[Scope], *, is_type: bool, asked: Asked | None = None) -> None:
        self.needs_all |= not OF_ALL_ATTRIBUTES.isdisjoint(chain[1:])
        targets = self._targets(chain, scopes)
        if not targets and not any(chain[0] in scope.bound for scope in scopes):
            self.needs_module |= chain[0] in OF_THIS_MODULE
            self.needs_all |= chain[0] in OF_ALL_MODULES
        for target in targets:
            if (
                not target.module
                and any(is_below(target.name, dynamic) for dynamic in OF_ALL_MODULES)
                and not is_below(target.name, OF_FILES)
            ):
                constant = asked.constant if asked is not None and target.name == "importlib.import_module" else None
                if constant is not None and not constant.startswith("."):
                    self.imports.add(constant)
                    self.references.append(Reference(chain, (Target(constant, ""),), False, None))
                else:
                    self.needs_all = True
        self.references.append(Reference(chain, tuple(targets), is_type, asked))

    def _targets(self, chain: Chain, scopes: list[Scope]) -> list[Target]:
        found: list[Target] = []
        for scope in reversed(scopes):
            if chain[0] in scope.is_global:
                break
            if chain[0] in scope.bound:
                found += [target for alias in scope.bound[chain[0]] for target in self.project.follow(alias, chain[1:])]
                if not scope.is_class:  # its methods do not see it, and its body may read a global of the same name before
                    return found
        return found + self.project.resolve(self.module, chain)

    def _call(self, node: ast.Call, scopes: list[Scope], *, is_type: bool) -> None:
        keywords = {keyword.arg: keyword for keyword in node.keywords}
        chain = dotted(node.func)
        if chain is None:
            self.visit(node.func, scopes)
        else:
            given = node.args[0] if node.args else keywords["name"].value if "name" in keywords else None
            self._name(chain, scopes, is_type=is_type, asked=_asked(given, scopes))
            for target in self._targets(chain, scopes):
                is_entry = target.rest == ("register",) and self.is_registry(Target(target.module, target.name))
                unread = OF_ENTRIES if is_entry else OF_FIELDS if not target.module and target.name in PYDANTIC_FIELDS else frozenset()
                self.for_readers.update(k for name, k in keywords.items() if name in unread and isinstance(k.value, ast.Constant))
        self._all([part for part in (*node.args, *node.keywords) if part not in self.for_readers], scopes, is_type=is_type)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scopes: list[Scope]) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
        self._all([*node.args.defaults, *filter(None, node.args.kw_defaults)], scopes)
        self._all([a.annotation for a in arguments if a.annotation is not None], scopes, is_type=True)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        if not isinstance(node, ast.Lambda):
            self._all([*node.decorator_list, *getattr(node, "type_params", [])], scopes)
            self._all([node.returns] if node.returns is not None else [], scopes, is_type=True)
        bound = {argument.arg: list[Alias]() for argument in arguments} | local_names(body, self.module)
        self._all(body, [*scopes, Scope(bound, frozenset(globals_in(body)), computed=frozenset(_computed(body)))])

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, scopes: list[Scope]) -> None:
        self.visit(node.generators[0].iter, scopes)
        inner = [*scopes, Scope(local_names([generator.target for generator in node.generators], self.module))]
        for index, generator in enumerate(node.generators):
            self._all([generator.target, *([generator.iter] if index else []), *generator.ifs], inner)
        self._all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)


def _asked(given: ast.expr | None, scopes: list[Scope]) -> Asked:
    constant = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None
    computed = {name for scope in scopes for name in scope.computed}
    return Asked(constant, given is not None and _is_passed_on(given) and not (isinstance(given, ast.Name) and given.id in computed))


def _is_passed_on(node: ast.expr) -> bool:
    """Whether an expression picks a value that is there, and makes no new one."""
    if isinstance(node, ast.IfExp):
        return _is_passed_on(node.body) and _is_passed_on(node.orelse)
    if isinstance(node, ast.BoolOp):
        return all(_is_passed_on(value) for value in node.values)
    return isinstance(node, ast.Constant | ast.Name | ast.Subscript) or dotted(node) is not None


def _computed(body: Iterable[ast.AST]) -> Iterator[str]:
    """Names that are given a value which is made there."""
    for node in (inner for part in body for inner in ast.walk(part)):
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) or node.value is None:
            continue
        if isinstance(node, ast.AugAssign) or not _is_passed_on(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = (inner for target in targets for inner in ast.walk(target))
            yield from (inner.id for inner in stored if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store))
