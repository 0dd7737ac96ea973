"""The whole of params.yaml. A stage loads its own sections (`pipeline.params`); whoever needs all of them takes this."""

from typing import Any

from pydantic import Field

from ganlib.marks.settings import MarksConfig
from ganlib.metrics.settings import EvaluateConfig, ReferenceConfig
from ganlib.sample_settings import SampleConfig
from pipeline import params
from pipeline.identity import TrainingParams
from pipeline.tracking.settings import RegisterConfig


class Params(TrainingParams):
    """Every section."""

    sample: SampleConfig
    reference: ReferenceConfig
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")
    marks: MarksConfig = Field(default_factory=lambda: MarksConfig.model_validate({}))


def parse(values: dict[str, Any]) -> Params:
    """Types, ranges and unknown keys of a parsed params.yaml; whether its names exist and fit together is `pipeline.preflight`'s.

    Raises:
        ParamsError: one line a problem.
    """
    return params.validated(values, Params)
