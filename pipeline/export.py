"""`ganpipe export`: a model as a folder that needs no code of this project, in the layout of Hugging Face.

model.safetensors and config.json (the truth), README.md (the model card), and the forms that are asked for: model.pt2, model.onnx (`pipeline.forms`),
and beside that seeded.py, which makes the images of a seed with it.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ganlib.files import atomic_folder, write_json
from pipeline import cli, forms, model_card
from pipeline.compare import find
from pipeline.generator import TrainedGenerator
from pipeline.params import ROOT

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMS: dict[str, Callable[[TrainedGenerator, float, Path], None]] = {"pt2": forms.write_pt2, "onnx": forms.write_onnx}


def export(
    trained: TrainedGenerator, out: Path, *, kinds: Sequence[str] = (), truncation: float = 1.0, evaluation: Mapping[str, Any] | None = None
) -> None:
    """Write `out`, whole or not at all; each form gives the network's images, or it is not written.

    Args:
        kinds: of FORMS.
        evaluation: of these very weights, for the card.

    Raises:
        ValueError: truncation of a generator without styles, a form that differs, or a package that is missing.
    """
    trained.options(truncation)
    if "onnx" in kinds:
        forms.require_onnx(named="--forms onnx")
    told = forms.interface(trained, truncation)
    with atomic_folder(out) as folder:
        save_file({name: tensor.contiguous() for name, tensor in trained.network.state_dict().items()}, folder / WEIGHTS)
        write_json(folder / CONFIG, {**trained.facts, "interface": told})
        (folder / CARD).write_text(model_card.render(trained.facts, told, evaluation, onnx="onnx" in kinds), encoding="utf-8")
        for kind in kinds:
            FORMS[kind](trained, truncation, folder / f"model.{kind}")
        if "onnx" in kinds and told["latents"] is not None:
            shutil.copyfile(forms.SEEDED, folder / forms.SEEDED.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.export", description=__doc__)
    parser.add_argument("--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/")
    parser.add_argument("--out", required=True, type=Path, help="is replaced where it was written by this command")
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), default=[], help="beside safetensors; onnx needs pip install '.[onnx]'")
    parser.add_argument("--truncation", type=float, default=1.0, help="built into the forms; style-based generators only")
    options = parser.parse_args()
    if options.out.exists() and not (options.out / CONFIG).is_file() and any(options.out.iterdir()):
        raise ValueError(f"--out {options.out} holds something else than an export; take a new folder")
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        found = find(options.model, Path(scratch) / "model", ROOT)
    export(found.trained, options.out, kinds=options.forms, truncation=options.truncation, evaluation=found.evaluation)
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")


if __name__ == "__main__":
    cli.run(main)
