"""A version that is looked at, and what a broken link of it is."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.provenance.objects import Objects
from pipeline.provenance.record import Lineage
from pipeline.provenance.source import Source

DIGITS = 12  # of a hash, in words


class BrokenError(ValueError):
    """A link that does not hold."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A version, and where its links are looked up."""

    source: Source
    objects: Objects
    root: Path

    @property
    def lineage(self) -> Lineage:
        return self.source.lineage


def require_equal(what: str, got: object, expected: object, todo: str) -> None:
    if got != expected:
        raise BrokenError(f"{what} is {short(got)}, expected {short(expected)}; {todo}")


def short(value: object) -> str:
    text = str(value)
    return text[:DIGITS] if len(text) in (32, 40, 64) and text.isalnum() else text
