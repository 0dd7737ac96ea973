"""What two pieces of code have to share to mean the same, on every Python."""

import ast

import pytest

from pipeline.code_digest.form import canonical, digest

# Every statement and expression Python 3.11 has, f-strings in all their ways.
EVERYTHING = '''
"""Docstring."""
from __future__ import annotations
import os.path, sys as system
from . import sibling
from ..above import one as other, two
from everywhere import *

@decorator
@decorator.with_call(1, *args, key=2, **kwargs)
class Thing(Base, metaclass=Meta):
    """Docstring."""
    field: int
    value: "Thing | None" = None
    (odd): int = 3

    @property
    def size(self) -> int:
        return len(self)

    async def run(self, a, /, b: int = 1, *args: str, c, d=None, **kwargs: float) -> list[int]:
        async with open(a) as file, lock:
            async for line in file:
                await line
        return [x async for x in self if x]

def function(x, *, y=lambda z=1, *a, **k: (z, a, k)):  # comment
    global counter
    def inner():
        nonlocal x
        x += 1; x -= 1; x *= 2; x @= y; x /= 3; x %= 4; x **= 5; x <<= 6; x >>= 7; x |= 8; x ^= 9; x &= 10; x //= 11
        yield
        yield x
        got = yield from inner()
        del x, x.attribute, x[0]
    if (n := len(x)) > 1 and not y or n is None and n is not y:
        pass
    elif x < 1 <= y != 2 == n >= 3 in x not in y:
        ...
    else:
        return -x + ~x - +x
    while True:
        if x: continue
        break
    else:
        assert x, f"message {x}"
    for i, *rest in enumerate(x):
        print(i, *rest, sep="")
    try:
        raise ValueError("a" "b") from None
    except (TypeError, ValueError) as error:
        raise
    except Exception:
        pass
    else:
        x = y = z
    finally:
        x: int
    try:
        ...
    except* OSError as group:
        a, (b, [c, *d]) = group
    with suppress(OSError):
        return

match command:
    case 1 | -2.5 | "text" | None | True: pass
    case [first, *others] if first: pass
    case {"key": value, **remaining}: pass
    case Point(0, y=ast.Load) as point: pass
    case _: pass

numbers = [0, 1, 0x1F, 10**9, 123456789012345678901234567890, 1.5, 1e300, 1e999, 0.1, 2j, 1_000, True, False, None, ...]
texts = ["", "a", u"u", 'quote"s', b"bytes\\x00", r"raw\\n", "\\N{BULLET}", "\\ud800", """long
text"""]
containers = [(), (1,), [], {}, {1}, {1: 2, **x}, [*x], x[1:2:3, ::2, ...], x[()], x[*y]]
comprehensions = [[a for b in c for a in b if a if b], {a for a in b}, {a: b for a, b in c}, (a for a in b)]
formatted = [f"", f"plain", f"{x}", f"{x!r}", f"{x!s:>10}", f"{x:{width}.{digits}f}", f"{x:}", f"{{}}", f"{x=}", f"{x = !r:>5}", f"a{x}b{y}c",
             "a" f"b{x}" "c" "d" f"{y}e", f"{'nested'}", f"{f'{x}'}", f"{x:%Y-%m}", rf"\\d{x}", f"{x}" f"{y}", f"{lambda_(1)}", f"{(lambda: 1)()}"]
conditional = a if b else c
value = a.b.c(d)(e)[f].g
call(a, *b, c=d, **e)
x @ y, x // y, x % y, x << y, x >> y, x & y, x | y, x ^ y, x ** -y
'''


def of(text: str) -> str:
    return digest(canonical(ast.parse(text)))


def test_the_form_of_everything_is_the_same_on_every_python():
    """A Python that parses differently, or has other fields, is seen here. Kills: any change of the form, which would move every key."""
    assert of(EVERYTHING) == "3c1a5219ea49907f5548506508a9937c0d358eb0c5eae73fa9840fc68ac47710"


# fmt: off
SAME = {
    "comments and lines": ("x = f(1, 2)  # why\n\n\ny = 2", "x = f(\n    1,\n    2,\n)\ny = 2"),
    "quotes": ("x = 'it'", 'x = "it"'),
    "pieces of a text": ("x = 'a' 'b'", "x = 'ab'"),
    "pieces of an f-string": ("x = f'a{y}' 'b' f'c'", "x = f'a{y}bc'"),
    "an empty f-string piece": ("x = f'{y}' ''", "x = f'{y}'"),
    "how a number is written": ("x = 0x10; y = 1_0; z = 1e3", "x = 16; y = 10; z = 1000.0"),
    "parentheses": ("x = (a + b) + (c)", "x = a + b + c"),
    "docstrings": ("class A:\n    'text'\n    def f(self):\n        'other'\n        return 1", "class A:\n    def f(self):\n        return 1"),
    "lone texts anywhere": ("x = 1\n'what x is'", "x = 1"),
    "pass beside others": ("def f():\n    pass\n    return 1", "def f():\n    return 1"),
    "ways to say nothing": ("def f(): ...", "def f():\n    'text'\n    pass"),
    "else: pass": ("if x:\n    y()\nelse:\n    pass", "if x:\n    y()"),
    "type comments": ("x = []  # type: list[int]", "x = []"),
    "u": ("x = u'a'", "x = 'a'"),
    "elif": ("if a:\n    b()\nelse:\n    if c:\n        d()", "if a:\n    b()\nelif c:\n    d()"),
}
# fmt: on


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_means_the_same_has_one_form(one, other):
    """Kills: a field of the tree that is kept though it says nothing (`kind`), a docstring that is."""
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0.0", "x = -0.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = 'None'", "x = None"),
        ("x = 'Ellipsis'", "x = ..."),
        ("x = 1", "x: int = 1"),
        ("x = f'{y}'", "x = f'{y!s}'"),
        ("x = f'{y}'", "x = f'{y:>3}'"),
        ("x = f'{{y}}'", "x = f'{y}'"),
        ("x = f'y'", "x = 'y'"),
        ("x = {**a}", "x = {None: a}"),
        ("x = a - b", "x = b - a"),
        ("x = a and b", "x = a or b"),
        ("x = a.b", "x = a.c"),
        ("f(a=1, b=2)", "f(b=2, a=1)"),
        ("def f(a, b): 0", "def f(a, /, b): 0"),
        ("def f(*, a, b=1): 0", "def f(*, a=1, b): 0"),
        ("def f(a=1): 0", "def f(a=2): 0"),
        ("def f(a: int): 0", "def f(a): 0"),
        ("def f(): return", "async def f(): return"),
        ("@a\n@b\ndef f(): 0", "@b\n@a\ndef f(): 0"),
        ("a = 1\nb = 2", "b = 2\na = 1"),
        ("for x in y: z()\nelse: w()", "for x in y: z()\nw()"),
        ("from a import b", "from .a import b"),
        ("match x:\n    case None: y()", "match x:\n    case True: y()"),
        ("match x:\n    case None: y()", "match x:\n    case _: y()"),
        ("[a async for a in b]", "[a for a in b]"),
        ("del x", "x"),
    ],
)
def test_what_means_something_else_has_another_form(one, other):
    """Kills: constants compared by value alone, a field that is skipped though it says something (`op`, `conversion`, `level`, `is_async`)."""
    if "async for" in one:
        one, other = (f"async def f():\n    {text}" for text in (one, other))
    assert of(one) != of(other)


def test_an_f_string_may_be_cut_anywhere():
    """Pythons differ in it. Kills: parts of an f-string as they come."""
    name = ast.FormattedValue(ast.Name("x"), -1, None)
    whole = canonical(ast.JoinedStr([ast.Constant("ab"), name, ast.Constant("c")]))
    assert canonical(ast.JoinedStr([ast.Constant("a"), ast.Constant("b"), ast.Constant(""), name, ast.Constant("c")])) == whole
    assert canonical(ast.JoinedStr([ast.JoinedStr([ast.Constant("ab"), name]), ast.Constant("c")])) == whole


def test_nodes_that_are_left_out_leave_no_trace():
    call = ast.parse("f(a, summary='text')", mode="eval").body
    assert isinstance(call, ast.Call)
    assert canonical(call, without={call.keywords[0]}) == canonical(ast.parse("f(a)", mode="eval").body)
