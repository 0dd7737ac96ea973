"""The `sample` section of params.yaml."""

from typing import Literal

from pydantic import Field, model_validator

from ganlib.config import Section


class DrawConfig(Section):
    """What is drawn of a trained generator."""

    num_images: int = Field(10_000, ge=1)
    seed: int = Field(1, ge=0)
    batch_images: int = Field(250, ge=1, description="fixed, because it is part of the numerics")
    format: Literal["parquet", "png", "webdataset"] = Field(
        "parquet", description="parquet as Hugging Face has it, png files in class folders, or tar shards of WebDataset"
    )
    classes: list[str | int] | dict[str | int, int] | None = Field(
        None,
        description="conditional generators: classes to draw, by name or number, as often as the data have them; a mapping says how many of each; "
        "null: every class",
    )
    truncation: float = Field(
        1.0, gt=0, le=1, description="below 1 styles are pulled towards their mean: truer images, fewer kinds; style-based generators only"
    )

    @model_validator(mode="after")
    def _classes_make_the_images(self) -> "DrawConfig":
        if self.classes is None:
            return self
        if not self.classes:
            raise ValueError("sample.classes is empty; name classes of the data, or set sample.classes: null for all of them")
        if isinstance(self.classes, dict):
            few = [f"{name!r}: {count}" for name, count in self.classes.items() if count < 1]
            if few:
                raise ValueError(f"sample.classes has {', '.join(few)}; expected at least 1 image of each class named, or leave it out")
            if (total := sum(self.classes.values())) != self.num_images:
                raise ValueError(
                    f"the counts of sample.classes sum to {total:,}, but sample.num_images={self.num_images:,}; set sample.num_images: {total}"
                )
        return self


class SampleConfig(DrawConfig):
    """What the sample stage draws from the trained generator."""

    num_images: int = Field(10_000, ge=2)
    grid_rows: int = Field(8, ge=1)
    grid_columns: int = Field(16, ge=1)
    interpolation_rows: int = Field(6, ge=1)
    interpolation_steps: int = Field(12, ge=2)
