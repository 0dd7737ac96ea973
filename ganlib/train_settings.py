"""The `train` section of params.yaml; it stands low because the networks, the stream of data and the tasks read it too."""

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ganlib.alarms import AlarmsConfig
from ganlib.config import Section
from ganlib.schedule import Images, not_negative


def is_key(text: str) -> bool:
    """Whether `text` can name a training: its run key, or the first 8 or more digits of it."""
    return re.fullmatch("[0-9a-f]{8,64}", text) is not None


class TrainConfig(Section):
    """Budget, batch, precision and state of the training."""

    seed: int = Field(0, ge=0)
    total_images: int = Field(ge=1, description="real images shown to the discriminator, repeats counted")
    batch_images: int = Field(64, ge=1, description="images per discriminator update, over all workers")
    logical_workers: int = Field(
        2, ge=1, description="fixed shards of a batch, a power of two; the result depends on it, not on cluster.workers"
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="bf16: autocast in the networks; losses and penalties stay in float32")
    channels_last: bool = True
    ema_halflife_images: Images = Field(5_000, description="of the generator's moving average, or a schedule; 0 switches it off")
    augment: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="of real images as they are loaded: name -> options, for example hflip: {p: 0.5}"
    )
    history_interval_images: int = Field(
        10_000, ge=1, description="a line of losses in the history, their means since the line before; what curves and history.csv have"
    )
    log_interval_images: int = Field(
        10_000,
        ge=1,
        description="lines of the history that the console and MLflow show: one each so many images; where it is less than "
        "history_interval_images, each of them. Never changes a result",
    )
    grid_interval_images: int = Field(50_000, ge=1)
    health_interval_images: int | None = Field(
        10_000,
        ge=0,
        description="logits on real, held-out and generated images, norms, diversity and overfitting gap are measured, and alarms raised; "
        "0 or null: never",
    )
    alarms: AlarmsConfig = Field(default_factory=AlarmsConfig, description="name -> action (warn, stop, rollback), threshold, measurements")
    checkpoint_interval_images: int = Field(100_000, ge=1)
    keep_checkpoints: int = Field(3, ge=1, description="the newest so many are kept")
    keep_best: int = Field(1, ge=0, description="beside the newest, the so many whose generator was nearest to the data are kept")
    on_divergence: Literal["stop", "rollback"] = Field(
        "stop", description="a loss or gradient that is not finite: stop, or go back to the last multiple of grid_interval_images"
    )
    max_rollbacks: int = Field(3, ge=1, description="rollbacks of one training before a divergence stops it after all")
    rollback_lr_factor: float = Field(0.5, gt=0, lt=1, description="each rollback multiplies every learning rate by it")
    freeze: dict[str, list[str]] = Field(
        default_factory=dict,
        description="network -> patterns of parameter names that keep their values, for example discriminator: ['features.0.*'] (FreezeD)",
    )
    continue_from: str | None = Field(
        None,
        description="run key of a training (8 or more of its hex digits) that goes on under these settings, where it stood; null: none",
    )
    start_from: str | None = Field(
        None,
        description="trained weights to start from, at step 0: models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/",
    )
    state_uri: str = Field(
        "state",
        description="folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix of resumable training state; never changes a result",
    )

    @field_validator("continue_from", "start_from", mode="before")
    @classmethod
    def _is_text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int | float):  # YAML takes 12345678 and 1234e567 for numbers
            raise ValueError(f"train.{info.field_name}={value} is a number to YAML; put the key in quotes")
        return value

    @model_validator(mode="after")
    def _has_an_average(self) -> "TrainConfig":
        not_negative(self.ema_halflife_images, key="train.ema_halflife_images")
        return self

    @model_validator(mode="after")
    def _one_parent(self) -> "TrainConfig":
        if self.continue_from is not None and self.start_from is not None:
            raise ValueError("train.continue_from and train.start_from exclude each other; set one of them to null")
        if self.continue_from is not None and not is_key(self.continue_from):
            raise ValueError(f"train.continue_from={self.continue_from!r} is no run key; expected 8 to 64 hex digits, as states are named")
        return self

    @model_validator(mode="after")
    def _shards_are_whole(self) -> "TrainConfig":
        v, b = self.logical_workers, self.batch_images
        if v & (v - 1):
            below = 1 << (v.bit_length() - 1)
            raise ValueError(
                f"logical_workers={v} is not a power of two; nearest: {below} or {below * 2} (params.yaml: train.logical_workers)"
            )
        if b % v:
            raise ValueError(
                f"train.batch_images={b} does not divide over logical_workers={v}; "
                f"nearest: {max(v, b // v * v)} or {-(-b // v) * v} (params.yaml: train.batch_images)"
            )
        return self

    @model_validator(mode="after")
    def _alarms_are_measured(self) -> "TrainConfig":
        acting = [name for name, alarm in self.alarms.by_name().items() if alarm.action in ("stop", "rollback")]
        if acting and not self.health_interval_images:
            raise ValueError(
                f"train.alarms.{acting[0]}.action={getattr(self.alarms, acting[0]).action} acts on measurements that are not made; set "
                "train.health_interval_images, or the action to warn"
            )
        return self

    @property
    def may_roll_back(self) -> bool:
        """Whether a divergence, or an alarm, goes back to an earlier state."""
        return "rollback" in (self.on_divergence, *(alarm.action for alarm in self.alarms.by_name().values()))

    @property
    def shard_images(self) -> int:
        """Images of one logical worker in one update."""
        return self.batch_images // self.logical_workers
