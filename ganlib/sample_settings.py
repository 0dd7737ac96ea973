"""The `sample` section of params.yaml."""

from pydantic import Field

from ganlib.config import Section


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
