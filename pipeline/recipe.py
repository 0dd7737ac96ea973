"""`python -m pipeline.recipe recipes/NAME.yaml`: lay a recipe over params.yaml, comments kept, and check the result before it is written."""

import argparse
from pathlib import Path

from pipeline import cli, edit, preflight
from pipeline.params import project


def apply(recipe: Path, target: Path) -> None:
    """Rewrite `target` (a params.yaml) with the recipe laid over it.

    Raises:
        ValueError: the recipe is no YAML mapping, or the result is no valid params.yaml; `target` is then untouched.
    """
    try:
        changes = edit.plain(recipe)
    except ValueError as error:
        raise ValueError(f"{error}; recipes: {', '.join(sorted(p.name for p in recipe.parent.glob('*.yaml')))}") from None
    values = edit.document(target)
    edit.lay(values, changes)
    temporary = target.with_name(f".{target.name}.checked")
    try:
        edit.write(values, temporary)
        preflight.load(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.recipe", description=__doc__)
    parser.add_argument("recipe", type=Path)
    recipe = parser.parse_args().recipe
    apply(recipe, project() / "params.yaml")
    print(f"params.yaml now follows {recipe}; `git diff params.yaml` shows how, `dvc repro` runs it")


if __name__ == "__main__":
    cli.run(main)
