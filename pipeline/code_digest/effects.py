"""What importing a module does beyond binding names. These statements count wherever their module is imported, named or not."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.code_digest.form import says_nothing
from pipeline.code_digest.names import FUNCTIONS, Module, Project, Target, Unit, dotted, is_below

REGISTRY = Target("ganlib.registry", "Registry")
# What may be called while a module is imported, and does nothing but return a value.
# fmt: off
QUIET = (
    "abc", "collections", "contextlib", "contextvars.ContextVar", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "inspect.signature", "itertools", "logging.getLogger", "math", "numpy.dtype", "operator", "pathlib.Path", "pydantic", "re", "string",
    "torch.inference_mode", "torch.no_grad", "types", "typing",
)
QUIET_BUILTINS = frozenset({
    "abs", "bool", "bytes", "classmethod", "complex", "dict", "divmod", "enumerate", "filter", "float", "frozenset", "hash", "int", "isinstance",
    "issubclass", "len", "list", "map", "max", "min", "object", "ord", "pow", "property", "range", "repr", "reversed", "round", "set", "slice",
    "sorted", "staticmethod", "str", "sum", "super", "tuple", "type", "zip",
})
# fmt: on
AT_CONSTRUCTION = frozenset({"__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__"})
ASKED_WITHOUT_A_NAME = frozenset({"__getattr__", "__dir__"})  # of a module


@dataclass(frozen=True, eq=False)
class Effects:
    """Reads top-level statements; never runs them. Whatever it does not know is taken to do something."""

    project: Project
    _packages: dict[Target, str | None] = field(default_factory=dict)

    # registries

    def package_of(self, registry: Target) -> str | None:
        """The package of the registry that `X = Registry(..., package="...")` makes; None where `registry` is none."""
        if registry not in self._packages:
            self._packages[registry] = self._package_of(registry)
        return self._packages[registry]

    def _package_of(self, registry: Target) -> str | None:
        module = self.project.module(registry.module) if registry.module else None
        bound = module.bindings.get(registry.name, []) if module is not None else []
        if module is None or len(bound) != 1 or not isinstance(bound[0], Unit):
            return None
        node = bound[0].node
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call) or bound[0].names != (registry.name,):
            return None
        chain = dotted(node.value.func)
        if chain is None or self.project.resolve(module, chain) != [REGISTRY]:
            return None
        packages = [keyword.value for keyword in node.value.keywords if keyword.arg == "package"]
        return next((str(value.value) for value in packages if isinstance(value, ast.Constant)), None)

    def entries(self, unit: Unit) -> Iterator[tuple[Target, str | None]]:
        """(registry, name) of a statement that files its definition or value in a registry; the name is None where it is no constant."""
        node = unit.node
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            calls: list[ast.expr] = node.decorator_list
        else:
            filed = node.value if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) else None
            calls = [filed.func] if isinstance(filed, ast.Call) else []
        for call in calls:
            if (registry := self._filed_in(self._module(unit), call)) is not None:
                assert isinstance(call, ast.Call)
                name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
                yield registry, name if isinstance(name, str) else None

    def _filed_in(self, module: Module, call: ast.expr) -> Target | None:
        """X of `X.register(...)`."""
        chain = dotted(call.func) if isinstance(call, ast.Call) else None
        targets = self.project.resolve(module, chain) if chain is not None else []
        if len(targets) != 1 or targets[0].rest != ("register",):
            return None
        registry = Target(targets[0].module, targets[0].name)
        return registry if self.package_of(registry) is not None else None

    def _module(self, unit: Unit) -> Module:
        module = self.project.module(unit.module)
        assert module is not None
        return module

    # statements

    def acts(self, unit: Unit) -> bool:
        """Whether a top-level statement does more than bind names to values and file them in registries."""
        module = self._module(unit)
        if unit.names and unit.names[0] in ASKED_WITHOUT_A_NAME:
            return True
        value = unit.node.value if isinstance(unit.node, ast.Expr | ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and any(True for _ in self.entries(unit)):  # X.register("name")(value)
            return not all(self._is_quiet(module, part) for part in (*value.args, *value.keywords))
        return self._acts(module, unit.node)

    def _acts(self, module: Module, node: ast.stmt) -> bool:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            inside = {*node.body, *node.decorator_list}
            around = all(self._is_quiet(module, part) for part in ast.iter_child_nodes(node) if part not in inside)
            is_quiet = around and all(self._is_quiet_decorator(module, part) for part in node.decorator_list)
            return not is_quiet or (isinstance(node, ast.ClassDef) and self._class_acts(module, node))
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            plain = ast.Name | ast.Tuple | ast.expr_context
            is_quiet = node.value is None or self._is_quiet(module, node.value)
            return not is_quiet or not all(isinstance(part, plain) for target in targets for part in ast.walk(target))
        return not says_nothing(node) and type(node).__name__ != "TypeAlias"  # a node that newer Pythons have

    def _class_acts(self, module: Module, node: ast.ClassDef) -> bool:
        _, *above = self._ancestry(module, node)
        is_made_specially = node.keywords or any(other is None or other.keywords or _has(other, {"__init_subclass__"}) for other in above)
        return bool(is_made_specially) or any(self._acts(module, part) for part in node.body)

    def _is_quiet(self, module: Module, node: ast.AST) -> bool:
        if isinstance(node, ast.Lambda):
            return self._is_quiet(module, node.args)
        if isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(node, ast.Call) and not self._is_quiet_call(module, node.func):
            return False
        return all(self._is_quiet(module, child) for child in ast.iter_child_nodes(node))

    def _is_quiet_decorator(self, module: Module, node: ast.expr) -> bool:
        if isinstance(node, ast.Attribute) and node.attr in ("setter", "getter", "deleter"):  # of a property
            return True
        if self._filed_in(module, node) is not None:
            return True
        called, arguments = (node.func, [*node.args, *node.keywords]) if isinstance(node, ast.Call) else (node, [])
        return self._is_quiet_call(module, called) and all(self._is_quiet(module, part) for part in arguments)

    def _is_quiet_call(self, module: Module, called: ast.expr) -> bool:
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Constant):
            return True  # "a b".split()
        if (chain := dotted(called)) is None:
            return False
        targets = self.project.resolve(module, chain)
        if not targets:
            return len(chain) == 1 and chain[0] in QUIET_BUILTINS
        return all(self._is_quiet_target(target) for target in targets)

    def _is_quiet_target(self, target: Target) -> bool:
        if not target.module:
            return any(is_below(target.name, quiet) for quiet in QUIET)
        if target == REGISTRY:
            return True
        classes = list(self._classes(target))
        return bool(classes) and not any(
            found is None or any(other is None or other.keywords or _has(other, AT_CONSTRUCTION) for other in self._ancestry(*found))
            for found in classes
        )

    def _ancestry(self, module: Module, node: ast.ClassDef, seen: frozenset[ast.ClassDef] = frozenset()) -> Iterator[ast.ClassDef | None]:
        """A class and those of this project that it derives from; None for one that is not known. Those from outside are taken to be plain."""
        yield node
        for base in node.bases:
            chain = dotted(base.value if isinstance(base, ast.Subscript) else base)
            targets = self.project.resolve(module, chain) if chain is not None else []
            if chain is None:
                yield None
            for target in targets:
                for found in self._classes(target) if target.module else ():
                    if found is None:
                        yield None
                    elif found[1] not in seen:
                        yield from self._ancestry(*found, seen=seen | {node})

    def _classes(self, target: Target) -> Iterator[tuple[Module, ast.ClassDef] | None]:
        module = self.project.module(target.module)
        assert module is not None
        for bound in module.bindings.get(target.name, ()):
            node = bound.node if isinstance(bound, Unit) and not target.rest else None
            yield (module, node) if isinstance(node, ast.ClassDef) else None


def _has(node: ast.ClassDef, methods: frozenset[str] | set[str]) -> bool:
    return any(isinstance(part, FUNCTIONS) and part.name in methods for part in node.body)
