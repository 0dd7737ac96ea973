"""The `reference` and `evaluate` sections of params.yaml."""

from typing import Literal

from pydantic import Field, model_validator

from ganlib.config import Section

Depth = Literal["middle", "last"]  # of an extractor's layers: texture half-way, or what it was trained to tell


class ReferenceConfig(Section):
    """The feature extractors that real and generated images are compared in."""

    extractor: str | list[str] = Field(
        "auto",
        description="an extractor, torchscript:PATH (a file below data/extractors), or a list, the main one first; auto: efficientnet_lite0 for RGB, "
        "beside or instead of it what is trained on the data: classifier where there are classes, else (not RGB) rotation",
    )
    seed: int = Field(0, ge=0)
    epochs: float = Field(3.0, gt=0, description="passes over the train split, for extractors that are trained on it")


class EvaluateConfig(Section):
    """Protocol of the evaluation."""

    metrics: list[str] = Field(
        default_factory=lambda: [
            "fid",
            "kid",
            "prdc",
            "memorization",
            "duplicates",
            "class_coverage",
            "swd",
            "spectrum",
            "two_sample",
            "discriminator",
            "membership",
            "path_length",
        ],
        description="registered metrics, by the name of their protocol; those that need classes only where reference.extractor=auto found some",
    )
    split: Literal["test", "val"] = Field("test", description="the real images that were held out")
    seed: int = Field(0, ge=0, description="of every random subset and bootstrap")
    prdc_images: int = Field(5_000, ge=10, description="real and generated images each, for precision, recall, density, coverage")
    neighbours: int = Field(5, ge=1, description="k of precision, recall, density, coverage")
    bootstrap: int = Field(20, ge=2, description="resamples behind each confidence interval")
    null_draws: int = Field(
        5, ge=0, description="random halves of the held-out images, against each other, behind each real-against-real null"
    )

    @model_validator(mode="after")
    def _neighbours_are_among_the_images(self) -> "EvaluateConfig":
        if self.neighbours >= self.prdc_images:
            raise ValueError(
                f"evaluate.neighbours={self.neighbours} is not below evaluate.prdc_images={self.prdc_images}; "
                f"set evaluate.prdc_images: {self.neighbours + 1} or more"
            )
        return self
