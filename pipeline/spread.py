"""What one recipe comes to under several seeds, stored in `seeds/` by `ganpipe seeds` and read where it is decided who is champion."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganlib.files import write_json
from pipeline.promotion import Spread

FOLDER = "seeds"
FORMAT = 1
LEFT_OUT = ("null", "baseline", "resampled", "ruler")  # of an evaluation.json: a spread is of the numbers and their protocol


def path(root: Path, recipe: str, data_digest: str) -> Path:
    return root / FOLDER / f"{recipe[:12]}-{data_digest[:12]}.json"


def stored(root: Path) -> list[Spread]:
    """Every spread of the project.

    Raises:
        ValueError: a file that is none.
    """
    found = []
    for file in sorted((root / FOLDER).glob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"has format {values['format']}, expected {FORMAT}")
            found.append(Spread(recipe=values["recipe"], evaluations=list(values["seeds"].values())))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no spread of `ganpipe seeds` ({error}); take it away, or make it anew") from None
    return found


def keep(root: Path, *, recipe: str, data_digest: str, settings: Mapping[str, Any], seed: int, evaluation: Mapping[str, Any]) -> Path:
    """Add what one seed came to; those that are there stay."""
    file = path(root, recipe, data_digest)
    file.parent.mkdir(exist_ok=True)
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["seeds"] if file.exists() else {}
    told = {key: value for key, value in evaluation.items() if key not in LEFT_OUT}
    seeds = dict(sorted({**before, str(seed): told}.items(), key=lambda item: int(item[0])))
    write_json(file, {"format": FORMAT, "recipe": recipe, "data_digest": data_digest, "settings": dict(settings), "seeds": seeds})
    return file
