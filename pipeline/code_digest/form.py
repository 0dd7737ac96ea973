"""The canonical form of a piece of code: its syntax tree without what means nothing, equal on every supported Python.

Left out are comments, formatting, docstrings and any other statement that is only a constant, `pass`, and how a literal was spelt.
The walk is our own: `ast.dump` and `ast.unparse` print what their Python has, and a new Python has new fields. A field that is absent, None or an
empty list is left out, so that a field which only newer Pythons have (`type_params`) changes nothing where it is not used.
"""

import ast
import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any


def digest(form: Any) -> str:
    """sha256 of a form, or of anything else made of lists, strings and numbers."""
    return hashlib.sha256(json.dumps(form, separators=(",", ":")).encode()).hexdigest()


def says_nothing(statement: ast.AST) -> bool:
    """Whether a statement is a docstring, another lone constant (`...`), or `pass`."""
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def canonical(node: ast.AST, *, without: Collection[ast.AST] = ()) -> list[Any]:
    """`[type, [field, value], ...]`, fields by name, made of lists, strings and numbers.

    Args:
        without: nodes that are left out wherever they stand in a list.
    """
    if isinstance(node, ast.Constant | ast.MatchSingleton):
        return ["Constant" if isinstance(node, ast.Constant) else "MatchSingleton", _constant(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["JoinedStr", *_joined(node, without)]
    form: list[Any] = [type(node).__name__]
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if name == "ctx" or value is None:  # whether a name is read or bound follows from where it stands
            continue
        if isinstance(node, ast.FormattedValue) and name == "format_spec" and not _joined(value, without):
            continue  # f"{x:}": some Pythons have an empty specification here, some none
        if isinstance(value, list):
            value = [
                _value(item, without) for item in value if item not in without and not (isinstance(item, ast.AST) and says_nothing(item))
            ]
            if not value:
                continue
        form.append([name, _value(value, without)])
    return form


def _value(value: Any, without: Collection[ast.AST]) -> Any:
    if isinstance(value, ast.AST):
        return canonical(value, without=without)
    assert value is None or isinstance(value, str | int | list), f"{type(value).__name__} in a syntax tree: give it a form here"
    return value


def _joined(node: ast.JoinedStr, without: Collection[ast.AST]) -> list[Any]:
    """The parts of an f-string. Pythons cut its text at different places, so neighbours are put together."""
    parts: list[Any] = []
    for form in _flat(node, without):
        if form[0] == "text" and parts and parts[-1][0] == "text":
            parts[-1][1] += form[1]
        elif form != ["text", ""]:
            parts.append(form)
    return parts


def _flat(node: ast.JoinedStr, without: Collection[ast.AST]) -> Iterator[list[Any]]:
    for part in node.values:
        if isinstance(part, ast.JoinedStr):
            yield from _flat(part, without)
        else:
            yield ["text", str(part.value)] if isinstance(part, ast.Constant) else canonical(part, without=without)


def _constant(value: Any) -> list[Any]:
    """Type and value: 1, 1.0 and True are equal in Python and three constants here."""
    kind = type(value).__name__
    if isinstance(value, str):
        return [kind, value]
    if isinstance(value, bytes):
        return [kind, value.hex()]
    if isinstance(value, float):
        return [kind, value.hex()]
    if isinstance(value, complex):
        return [kind, value.real.hex(), value.imag.hex()]
    if isinstance(value, int) and not isinstance(value, bool):
        return [kind, hex(value)]
    assert value is None or value is ... or isinstance(value, bool), f"a constant of type {kind}: give it a form here"
    return [kind, repr(value)]
