"""`make lock`: requirements.txt and requirements-test.txt, from what is installed in the environment that this runs in.

The first is all that requirements.in needs, the second what requirements-test.in needs beside it. torch is left out, and with it the GPU libraries of
its builds, so that pip's own settings choose the build (Makefile: TORCH).
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_LOCKED = re.compile(r"(torch|setuptools|pip|nvidia-.*|cuda-.*|triton)")
FOLLOWED = "torch"  # not locked itself, but what it needs is


def asked(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def closure(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """What is installed of `requirements` and of all that they require here, by canonical name.

    Raises:
        SystemExit: something is missing, or has another version than is asked for.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if NOT_LOCKED.fullmatch(name) and name != FOLLOWED:
            continue
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"error: {requirement} is needed but not installed; pip install -r requirements.in -r requirements-test.in")
        if not requirement.specifier.contains(installed.version, prereleases=True):
            sys.exit(f"error: {requirement} is needed, but {installed.version} is installed; pip install '{requirement}'")
        if name != FOLLOWED:
            found[name] = installed
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(line), wanted) for line in installed.requires or ()]
    return found


def write(path: Path, source: str, locked: Iterable[Distribution]) -> None:
    names = sorted(((item.metadata["Name"], item.version) for item in locked), key=lambda pair: pair[0].lower())
    lines = [f"# Locked by 'make lock' from {source}", *(f"{name}=={version}" for name, version in names)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    run = closure(asked(Path("requirements.in")))
    test = closure(asked(Path("requirements-test.in")))
    without = "requirements.in; torch is left out, so that pip's own settings choose its build (Makefile: TORCH)."
    write(Path("requirements.txt"), without, run.values())
    beside = "requirements-test.in: what it needs beside requirements.txt."
    write(Path("requirements-test.txt"), beside, [test[name] for name in test.keys() - run.keys()])


if __name__ == "__main__":
    main()
