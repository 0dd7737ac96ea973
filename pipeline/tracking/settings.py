"""The `tracking` and `register` sections of params.yaml."""

from pydantic import Field

from ganlib.config import Section


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
    """The promotion decision."""

    model: str = Field("gan-generator", description="name in the MLflow model registry")
    metric: str = Field("fid", description="key of reports/evaluation.json that decides; which way is better is declared by its metric")
