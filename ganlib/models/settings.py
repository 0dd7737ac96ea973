"""The `model` section of params.yaml."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from ganlib.config import Section


class ModelConfig(Section):
    """Which networks, and their options: beside the keys here, the name of each network of the task with a mapping of options.

    Which networks a task has is the task's (`ganlib.tasks.check_networks`), which options a network has its family's.
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="a registered network family: dcgan, mlp, ...")
    latent_dim: int = Field(64, ge=1)
    latent_distribution: Literal["normal", "uniform"] = Field("normal", description="N(0, 1) or U(-1, 1)")
    conditional: bool = Field(False, description="the networks are told the class; needs labelled data. How, is an option of the family")

    @property
    def networks(self) -> dict[str, Any]:
        """Network -> options, of those that are given any."""
        return dict(self.__pydantic_extra__ or {})

    def __getitem__(self, network: str) -> Any:
        """The options of a network; none where it is left at its defaults."""
        return self.networks.get(network, {})
