"""How a generator is stored as an MLflow model: the graph as MLflow's own pytorch flavor, `serving.py` as the pyfunc that answers requests."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ganlib.marks import embedding
from pipeline.tracking import serving
from pipeline.tracking.store import Store

INTERFACE = "interface.json"


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """What MLflow's `Model.log` asks to write the files of a model.

    Attributes:
        interface: what the graph takes and gives (`pipeline.forms.interface`).
        beside: further files that lie beside the model, as `models:/NAME/VERSION/README.md`.
        run_id: of the training, as MLmodel has it.
    """

    store: Store
    generator: nn.Module
    example: np.ndarray
    output: np.ndarray
    interface: Mapping[str, Any]
    beside: Sequence[Path] = ()
    run_id: str | None = None

    def save_model(self, *, path: str, mlflow_model: Any, **options: Any) -> None:
        """Write `path`: the pytorch flavor (data/model.pt2), and over its pyfunc ours, which has no schema of inputs: they may be left out."""
        mlflow, folder = self.store.mlflow, Path(path)
        mlflow_model.run_id = self.run_id
        traced = mlflow.models.infer_signature(self.example, self.output)
        mlflow.pytorch.save_model(
            self.generator,
            path,
            mlflow_model=mlflow_model,
            signature=traced,
            input_example=self.example,
            serialization_format="pt2",
            **options,
        )
        (folder / INTERFACE).write_text(json.dumps(self.interface, indent=1, ensure_ascii=False), encoding="utf-8")
        code, mark = Path(serving.__file__), Path(embedding.__file__)
        for file in (code, mark, *self.beside):
            shutil.copyfile(file, folder / file.name)
        mlflow_model.signature = mlflow.models.ModelSignature(outputs=traced.outputs, params=self._params(mlflow))
        graph, told = "data/model.pt2", {"graph": "data/model.pt2", "interface": INTERFACE, "embedding": mark.name}
        assert (folder / graph).is_file()
        mlflow.pyfunc.add_to_model(
            mlflow_model,
            loader_module="mlflow.pyfunc.model",
            model_code_path=code.name,
            conda_env="conda.yaml",
            python_env="python_env.yaml",
            artifacts={name: {"path": place, "uri": place} for name, place in told.items()},
        )
        mlflow_model.save(str(folder / "MLmodel"))

    def _params(self, mlflow: Any) -> Any:
        """What a request may say, with what it means where it does not."""
        spec, truncation = mlflow.types.ParamSpec, self.interface["truncation"]
        return mlflow.types.ParamSchema(
            [
                spec("count", "long", 0),
                spec("seed", "long", 0),
                spec("first", "long", 0),
                spec("classes", "string", [], shape=(-1,)),
                spec("truncation", "double", 1.0 if truncation is None else float(truncation)),
                spec("format", "string", "float32"),
            ]
        )
