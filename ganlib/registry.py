"""Named entries (losses, networks, sources, ...) that are discovered by importing the package they live in.

A registry belongs to one package or module; the first look-up imports everything below it, so a new file is found without a list to edit.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """What the catalogue shows of one registered thing."""

    name: str
    value: T
    summary: str  # the first line of the docstring
    paper: str  # "arXiv:1704.00028, eq. 3", or "" where there is none


class Registry(Generic[T]):
    """Name -> class or function of one kind.

    Args:
        kind: what an entry is called in messages, e.g. `"loss"`.
        package: dotted name of the module or package to import on the first look-up.
    """

    def __init__(self, kind: str, *, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._is_discovered = False

    def register(self, name: str, *, paper: str = "") -> Callable[[T], T]:
        """Decorator that files a class or function under `name`; its docstring's first line becomes the summary."""

        def decorate(value: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            doc = (value.__doc__ or "").strip()
            assert doc, f"{self.kind} {name!r} needs a docstring: its first line is shown by the catalogue"
            self._entries[name] = Entry(name=name, value=value, summary=doc.splitlines()[0], paper=paper)
            return value

        return decorate

    def names(self) -> list[str]:
        return [entry.name for entry in self]

    def __iter__(self) -> Iterator[Entry[T]]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def get(self, name: str, *, key: str = "") -> T:
        """The entry called `name`.

        Args:
            key: the params.yaml key that named it, for the error message.

        Raises:
            ValueError: no such entry; names the legal ones and the nearest.
        """
        self._discover()
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            where = f"{key}={name!r}" if key else f"{name!r}"
            raise ValueError(f"{where} is not a known {self.kind}{hint}; legal: {', '.join(self.names())}")
        return self._entries[name].value

    def _discover(self) -> None:
        if self._is_discovered:
            return
        self._is_discovered = True
        module = importlib.import_module(self.package)
        for info in pkgutil.walk_packages(getattr(module, "__path__", []), prefix=self.package + "."):
            importlib.import_module(info.name)
