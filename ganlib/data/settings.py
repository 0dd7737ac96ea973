"""The `data` section of params.yaml."""

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ganlib.config import Section

MAX_PIXELS = 89_478_485  # Pillow's own limit
MAX_INFLATION = 100  # as in Apache POI's ZipSecureFile; deflate cannot do better than about 1032
Resize = Literal["lanczos", "bicubic", "bilinear", "hamming", "box", "nearest"]
Crop = Literal["center", "pad", "stretch"]


class ColumnConfig(Section):
    """One further column of the data; what is null is as for the rows themselves."""

    modality: str = Field("image", description="what its values are")
    column: str | None = Field(None, description="what the source calls it; null: by its name here")
    image_size: tuple[int, int] | None = Field(None, strict=False)
    channels: Literal[1, 3, 4] | None = None
    resize: Resize | None = None
    crop: Crop | None = None
    value_range: tuple[float, float] | None = Field(None, strict=False)


class DataConfig(Section):
    """What the images are and how they are brought to one size."""

    source: str = Field(description="a registered data source: fashion-mnist, digits, idx, image_folder, parquet")
    modality: str = Field("image", description="what one row of the data is; below, an image is a row of any modality")
    path: str = Field("data/incoming", description="where your own files are (idx, image_folder, parquet), or IDX files you already have")
    source_uri: str | None = Field(
        None, description="your own files in an object store instead: s3://bucket/prefix, a folder or one file there; null: in path"
    )
    image_size: tuple[int, int] = Field((28, 28), description="[height, width] in pixels of every image after preparation", strict=False)
    channels: Literal[1, 3, 4] = Field(1, description="1 grey, 3 RGB, 4 RGBA")
    resize: Resize = Field("lanczos", description="filter, antialiased")
    crop: Crop = Field("center", description="how another aspect ratio is fitted: cut the centre, pad with black, stretch")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="a broken image stops preparation (fail) or is counted and left out (skip)"
    )
    classes: Literal["auto", "none", "folders", "file"] = Field(
        "auto",
        description="image_folder: the classes are folders, or in a file of labels; auto: the file where there is one, else the folders",
    )
    splits: Literal["auto", "given", "content"] = Field(
        "auto", description="train, val and test as folders or file names give them, or by content; auto: as given where they are"
    )
    value_range: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="[low, high] of the values as they arrive, mapped to black and white; null: 8 and 16 bits as they are",
    )
    pages: Literal["first", "all"] = Field("first", description="of a multi-page TIFF or an animation: the first page, or each as an image")
    jpeg_decode: Literal["full", "shrink"] = Field(
        "full", description="large JPEGs: every pixel decoded, then resized; or shrunk by the decoder first (faster, slightly other pixels)"
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="an image of more pixels is broken: a small file can pretend to be a huge one")
    max_inflation: int = Field(
        MAX_INFLATION,
        ge=1,
        description="a .gz, or a file in a .zip, that unpacks to more than so many times its size is refused (above 64 MiB)",
    )
    image_column: str = Field("image", description="parquet: column with images, or their paths; file names in a file of labels")
    label_column: str | None = Field("label", description="column with labels (parquet, a file of labels), or null for none")
    columns: dict[str, ColumnConfig] = Field(
        default_factory=dict, description="parquet: further columns beside the image, name -> what they are: {depth: {channels: 1}}"
    )
    store_uri: str | None = Field(
        None, description="where prepared images lie as shards: an absolute folder, s3://bucket/prefix; null: in data/prepared"
    )
    shard_mb: int = Field(64, ge=1, le=2048, description="[MiB] a shard in the store")
    val_fraction: float = Field(
        0.05,
        ge=0.0,
        lt=0.5,
        description="share of distinct images in the validation split; 0.0: there is none, and no baseline of real images",
    )
    test_fraction: float = Field(
        0.15, ge=0.0, lt=0.5, description="share of distinct images in the test split; 0.0 with evaluate.split: val"
    )

    @model_validator(mode="after")
    def _size_is_positive(self) -> "DataConfig":
        if min(self.image_size) < 1:
            raise ValueError(f"image_size is {list(self.image_size)}; both height and width must be at least 1")
        return self

    @model_validator(mode="after")
    def _columns_are_others(self) -> "DataConfig":
        if taken := {self.modality, "label"} & self.columns.keys():
            raise ValueError(f"data.columns has {min(taken)!r}, which the data have already; give the column another name")
        if self.columns and self.pages == "all":
            raise ValueError(
                "data.pages=all makes several rows of a file, and data.columns has one value for each file; set data.pages: first"
            )
        return self

    @property
    def place(self) -> str:
        """Where the source's files are: an address in a store, without its options, or a path."""
        return self.path if self.source_uri is None else self.source_uri.partition("?")[0]

    def of_column(self, name: str) -> "DataConfig":
        """The settings as they are for the values of a further column."""
        chosen = self.columns[name].model_dump(exclude={"column"}, exclude_none=True)
        return self.model_copy(update={**chosen, "columns": {}})

    @field_validator("value_range")
    @classmethod
    def _range_is_one(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]):
            raise ValueError(f"value_range is {list(value)}; expected [low, high] with low below high, both finite")
        return value
