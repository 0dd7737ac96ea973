"""The `task` section of params.yaml."""

from typing import Any

from pydantic import Field

from ganlib.config import Section


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
