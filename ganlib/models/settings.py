"""The `model` section of params.yaml."""

from typing import Any, Literal

from pydantic import Field

from ganlib.config import Section


class ModelConfig(Section):
    """Which networks, and their options; each family checks its own options."""

    name: str = Field(description="a registered network family: dcgan, mlp, ...")
    latent_dim: int = Field(64, ge=1)
    latent_distribution: Literal["normal", "uniform"] = Field("normal", description="N(0, 1) or U(-1, 1)")
    conditional: bool = Field(False, description="both networks are told the class; needs labelled data. How, is an option of the family")
    generator: dict[str, Any] = Field(default_factory=dict, description="options of the family's generator")
    discriminator: dict[str, Any] = Field(default_factory=dict, description="options of the family's discriminator")
