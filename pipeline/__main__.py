"""`ganpipe VERB`: every command of the project under one name; `python -m pipeline VERB` is the same, and so is the module itself.

A verb is a module with an argparse `main`, run as `python -m MODULE` runs it: exit codes, signals and `--help` are the module's own.
"""

import argparse
import ast
import difflib
import importlib.util
import os
import re
import runpy
import sys
from pathlib import Path

from pipeline.params import CODE, ROOT

VERBS = (
    *("recipe", "submit", "render", "states", "compare", "generate", "export", "serve", "mark", "detect", "page"),
    *("seeds", "registry", "provenance.lineage", "exact", "doctor", "deliver", "results", "prometheus", "deps"),
)
MODULES = ("ganlib.catalog", *(f"pipeline.{verb}" for verb in VERBS))


def verbs() -> dict[str, str]:
    """Verb -> its module, for the modules that are there."""
    return {module.rpartition(".")[2]: module for module in MODULES if importlib.util.find_spec(module)}


def summary(module: str) -> str:
    """The first line of a module's docstring, less the command it may begin with; nothing is imported for it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return re.sub(r"^`[^`]*`: ", "", text.partition("\n")[0])


def use_code_of_clone() -> None:
    """In a clone, go on with the clone's code, as its stages do, wherever this command was installed from."""
    paths = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if ROOT != CODE and (ROOT / "pipeline" / "__main__.py").is_file() and str(ROOT) not in paths:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *paths])}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "pipeline", *sys.argv[1:]], environment)


def main() -> None:
    use_code_of_clone()
    known = verbs()
    lines = "\n".join(f"  {verb:<10}  {summary(module)}" for verb, module in known.items())
    parser = argparse.ArgumentParser(
        prog="ganpipe",
        usage="ganpipe [-h] VERB ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The commands of the GAN pipeline; `dvc repro` runs it.",
        epilog=f"verbs:\n{lines}\n\n`ganpipe VERB --help` says more.",
    )
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.verb is None:
        parser.print_help(sys.stderr)
        sys.exit(2)
    if options.verb not in known:
        near = difflib.get_close_matches(options.verb, known, n=1)
        parser.error(f"unknown verb {options.verb!r}{f' (did you mean {near[0]!r}?)' if near else ''}; legal: {', '.join(known)}")
    sys.argv = [f"ganpipe {options.verb}", *options.arguments]
    runpy.run_module(known[options.verb], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
