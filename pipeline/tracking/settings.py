"""The `tracking` and `register` sections of params.yaml."""

from typing import Literal

from pydantic import Field

from ganlib.config import Section

AlarmName = Literal["divergence", "mode_collapse", "stalled", "overfitting", "generator_wins", "discriminator_wins"]
FORBID: tuple[AlarmName, ...] = ("divergence", "mode_collapse")


class TrackingConfig(Section):
    """MLflow. Nobody's dependency either. MLFLOW_TRACKING_URI in the environment wins over `uri`."""

    uri: str | None = Field(None, description="null: a sqlite store in the project folder")
    experiment: str = "gan"
    patience_seconds: float = Field(
        20,
        ge=0,
        description="after a training, so long is waited for MLflow to take what is left, and once more while it is still being imported; "
        "the rest is delivered later",
        strict=False,
    )


class RegisterConfig(Section):
    """The promotion decision (`pipeline.promotion`)."""

    model: str = Field(
        "auto", description="name in the MLflow model registry; auto: gan- and the data's source or, of your own files, their folder"
    )
    metric: str = Field("fid", description="key of reports/evaluation.json that decides; which way is better is declared by its metric")
    error_rate: float = Field(
        0.05, gt=0, lt=0.5, description="one-sided: of promotions that chance alone makes, over samples and over seeds", strict=False
    )
    margin: float = Field(
        0.02, ge=0, description="by more than this share of the champion's number a challenger must be better", strict=False
    )
    tolerance: float = Field(
        0.05, ge=0, description="by this share of the champion's (points of a share) another trusted number may be worse", strict=False
    )
    spread: float | None = Field(
        None,
        gt=0,
        description="standard deviation over seeds as a share of a number, assumed; null: the stored one that `ganpipe seeds` makes",
        strict=False,
    )
    limits: dict[str, float] = Field(
        default_factory=lambda: {"memorized_share": 0.05, "membership_black_box": 0.6, "coverage": 0.1},
        description="number -> what it may be at most; at least, where higher is better. Hard: with or without a champion",
        strict=False,
    )
    data_licence: str | None = Field(
        None, min_length=2, description="of the training images, for the model card; null: what is known of a named source"
    )
    onnx: bool = Field(False, description="the version holds model.onnx too; needs the packages of `pip install '.[onnx]'`")
    dry_run: bool = Field(False, description="say what would be decided; nothing is registered")
    force: str | None = Field(
        None,
        min_length=10,
        description="a reason, recorded with the version: it is promoted whatever the rule says. Each is good for one version",
    )
    approval: Literal["automatic", "manual"] = Field(
        "automatic", description="manual: what the rule promotes gets the alias `awaiting`, and a person promotes it"
    )
    alarms: list[AlarmName] = Field(
        default_factory=lambda: list(FORBID), description="no generator is promoted whose training raised one of these"
    )
