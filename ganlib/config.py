"""Every setting ganlib knows, as frozen pydantic models: unknown keys are refused, ranges are checked, no dict survives below this file.

The field descriptions are the reference: what a key means, its unit and its legal values. Names of registered things (a loss, a network)
are strings here and are resolved by whoever builds them, with `Registry.get`, so that a stage imports only what it runs.
"""

import dataclasses
import difflib
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator


class Section(BaseModel):
    """A block of settings: keyword-only, immutable, strict about unknown keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(Section):
    """What the images are and how they are brought to one size."""

    source: str = Field(description="a registered data source: fashion-mnist, digits, idx, image_folder, parquet")
    path: str = Field("data/incoming", description="where your own files are (idx, image_folder, parquet), or IDX files you already have")
    image_size: tuple[int, int] = Field((28, 28), description="[height, width] in pixels of every image after preparation", strict=False)
    channels: Literal[1, 3, 4] = Field(1, description="1 grey, 3 RGB, 4 RGBA")
    resize: Literal["lanczos", "bicubic", "bilinear", "hamming", "box", "nearest"] = Field("lanczos", description="filter, antialiased")
    crop: Literal["center", "pad", "stretch"] = Field(
        "center", description="how another aspect ratio is fitted: cut the centre, pad with black, stretch"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="a broken image stops preparation (fail) or is counted and left out (skip)"
    )
    image_column: str = Field("image", description="parquet: column with an image struct or encoded bytes")
    label_column: str | None = Field("label", description="parquet: column with integer labels, or null for none")
    val_fraction: float = Field(0.05, ge=0.0, lt=0.5, description="share of distinct images in the validation split")
    test_fraction: float = Field(0.15, ge=0.0, lt=0.5, description="share of distinct images in the test split")

    @model_validator(mode="after")
    def _size_is_positive(self) -> "DataConfig":
        if min(self.image_size) < 1:
            raise ValueError(f"image_size is {list(self.image_size)}; both height and width must be at least 1")
        return self


class ModelConfig(Section):
    """Which networks, and their options; each family checks its own options."""

    name: str = Field(description="a registered network family: dcgan, mlp, ...")
    latent_dim: int = Field(64, ge=1)
    latent_distribution: Literal["normal", "uniform"] = Field("normal", description="N(0, 1) or U(-1, 1)")
    conditional: bool = Field(False, description="both networks are told the class; needs labelled data. How, is an option of the family")
    generator: dict[str, Any] = Field(default_factory=dict, description="options of the family's generator")
    discriminator: dict[str, Any] = Field(default_factory=dict, description="options of the family's discriminator")


class TaskConfig(Section):
    """What is minimised, by whom and how often."""

    name: str = Field("adversarial", description="a registered task")
    loss: str = Field("non_saturating", description="a registered loss")
    loss_options: dict[str, Any] = Field(default_factory=dict)
    regularizers: dict[str, dict[str, Any]] = Field(default_factory=dict, description="name -> options, for example r1: {gamma: 1.0}")
    discriminator_repeats: int = Field(1, ge=1, description="discriminator updates per generator update (n_critic)")
    weight_clip: float | None = Field(None, gt=0, description="clip every discriminator weight to [-c, c] after its update (WGAN)")
    generator_loss_weight: float = Field(1.0, ge=0, description="of the adversarial loss; 0: regularizers alone train the generator")
    label_noise: float = Field(0.0, ge=0, le=0.5, description="share of pairs whose real and generated image swap labels in D's update")
    gradient_normalization: bool = Field(False, description="D divided by the norm of its input gradient (GN-GAN)")
    augment: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name -> options; what D sees, real and generated, in its own update and in the generator's"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="of the task itself")


class OptimizerConfig(Section):
    """One optimizer's specification; `options` belong to the named optimizer."""

    name: str = Field("adam", description="a registered optimizer")
    lr: float = Field(gt=0)
    options: dict[str, Any] = Field(default_factory=dict, description="for example betas: [0.5, 0.99]")
    max_gradient_norm: float | None = Field(None, gt=0, description="a longer gradient is scaled down to this norm (gradient clipping)")


class OptimConfig(Section):
    """An optimizer per network and the learning-rate schedule they share."""

    generator: OptimizerConfig
    discriminator: OptimizerConfig
    warmup_images: int = Field(0, ge=0, description="the learning rate rises linearly from 0 over this many images")
    decay: Literal["none", "linear", "cosine"] = Field("none", description="how the learning rate falls to 0 at total_images")
    decay_from: float = Field(0.0, ge=0, lt=1, description="share of total_images before the fall begins")


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
    ema_halflife_images: int = Field(10_000, ge=0, description="of the generator's moving average; 0 switches it off")
    augment: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="of real images as they are loaded: name -> options, for example hflip: {p: 0.5}"
    )
    log_interval_images: int = Field(10_000, ge=1)
    grid_interval_images: int = Field(50_000, ge=1)
    checkpoint_interval_images: int = Field(100_000, ge=1)
    keep_checkpoints: int = Field(3, ge=1, description="the newest so many are kept")
    keep_best: int = Field(1, ge=0, description="beside the newest, the so many whose generator was nearest to the data are kept")
    on_divergence: Literal["stop", "rollback"] = Field(
        "stop", description="a loss or gradient that is not finite: stop, or go back to the last multiple of grid_interval_images"
    )
    max_rollbacks: int = Field(3, ge=1, description="rollbacks of one training before a divergence stops it after all")
    rollback_lr_factor: float = Field(0.5, gt=0, lt=1, description="each rollback multiplies every learning rate by it")
    state_uri: str = Field(
        "state", description="folder or s3://bucket/prefix of resumable training state; no output, never changes a result"
    )

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

    @property
    def shard_images(self) -> int:
        """Images of one logical worker in one update."""
        return self.batch_images // self.logical_workers


class SampleConfig(Section):
    """What the sample stage draws from the trained generator."""

    num_images: int = Field(10_000, ge=2)
    seed: int = Field(1, ge=0)
    batch_images: int = Field(250, ge=1, description="fixed, because it is part of the numerics")
    truncation: float = Field(
        1.0, gt=0, le=1, description="below 1 styles are pulled towards their mean: truer images, fewer kinds; style-based generators only"
    )
    grid_rows: int = Field(8, ge=1)
    grid_columns: int = Field(16, ge=1)
    interpolation_rows: int = Field(6, ge=1)
    interpolation_steps: int = Field(12, ge=2)


class ReferenceConfig(Section):
    """The feature extractor that real and generated images are compared in."""

    extractor: str = Field("classifier", description="a registered extractor: classifier (labelled data), rotation (any data)")
    seed: int = Field(0, ge=0)
    epochs: float = Field(3.0, gt=0, description="passes over the train split, for extractors that are trained on it")


class EvaluateConfig(Section):
    """Protocol of the evaluation."""

    metrics: list[str] = Field(
        default_factory=lambda: ["fid", "kid", "prdc", "memorization", "class_coverage"],
        description="registered metrics, by the name of their protocol",
    )
    split: Literal["test", "val"] = Field("test", description="the real images that were held out")
    seed: int = Field(0, ge=0, description="of every random subset and bootstrap")
    prdc_images: int = Field(5_000, ge=10, description="real and generated images each, for precision, recall, density, coverage")
    neighbours: int = Field(5, ge=1, description="k of precision, recall, density, coverage")
    bootstrap: int = Field(20, ge=2, description="resamples behind each confidence interval")


S = TypeVar("S", bound=BaseModel)
D = TypeVar("D")


def construct(cls: type[D], values: dict[str, Any], *, key: str) -> D:
    """An instance of a dataclass of options (a loss, a penalty, an optimizer) from the mapping at `key` of params.yaml.

    Raises:
        ValueError: unknown names, wrong types, or what the class itself refuses.
    """
    hints = get_type_hints(cls)
    known: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        is_tuple = get_origin(hints[field.name]) is tuple  # YAML has lists only
        default = ... if field.default is dataclasses.MISSING else field.default
        known[field.name] = (hints[field.name], Field(default, strict=not is_tuple))
    checked = options(create_model(cls.__name__, __base__=Section, **known), values, key=key)
    return cls(**{name: getattr(checked, name) for name in known})


def options(schema: type[S], values: dict[str, Any], *, key: str) -> S:
    """Validate `values` against `schema`; `key` is their place in params.yaml.

    Raises:
        ValueError: one line a problem: the key, the value, what is legal.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error, schema, key=key)) from None


def explain(error: ValidationError, schema: type[BaseModel], *, key: str = "") -> str:
    """A pydantic error as lines a user can act on: `train.batch_image is not a known key (did you mean batch_images?); legal: ...`."""
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        where = ".".join(([key] if key else []) + path)
        if item["type"] == "extra_forbidden":
            owner: Any = schema
            for part in path[:-1]:
                annotation = owner.model_fields[part].annotation if isinstance(owner, type) and issubclass(owner, BaseModel) else None
                owner = annotation
            legal = sorted(owner.model_fields) if isinstance(owner, type) and issubclass(owner, BaseModel) else []
            near = difflib.get_close_matches(path[-1], legal, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            lines.append(f"{where}={item['input']!r} is not a known key{hint}; legal: {', '.join(legal)}")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing; add it to params.yaml")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]) if "ctx" in item else item["msg"])
        else:
            lines.append(f"{where}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "\n".join(lines)
