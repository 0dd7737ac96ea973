"""Adversarial losses on logits: one value a sample, no reduction, no device, no logging.

Names say the mathematics: `minimax` is the saturating game of the first paper; what most code calls so is `non_saturating`.
Each is written with softplus, never as the log of a sigmoid, so that logits of any size give finite values and gradients.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from ganlib.registry import Registry


class Loss(Protocol):
    """`discriminator` and `generator` map logits [N] to losses [N]; `reads_real` says that the generator's loss needs real logits."""

    reads_real: ClassVar[bool]

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor: ...


LOSSES: Registry[Any] = Registry("loss", package="ganlib.losses")


@LOSSES.register("minimax", paper="arXiv:1406.2661, eq. 1")
@dataclass(frozen=True, kw_only=True)
class Minimax:
    """The saturating two-player game: D maximises, G minimises log D(x) + log(1 - D(G(z)))."""

    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:  # [N], [N] -> [N]
        return F.softplus(-real_logits) + F.softplus(fake_logits)

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -F.softplus(fake_logits)  # log(1 - sigmoid(f))


@LOSSES.register("non_saturating", paper="arXiv:1406.2661, section 3")
@dataclass(frozen=True, kw_only=True)
class NonSaturating:
    """D as in minimax; G minimises -log D(G(z)), which keeps its gradient when D rejects everything."""

    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits) + F.softplus(fake_logits)

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits)


@LOSSES.register("least_squares", paper="arXiv:1611.04076, eq. 2 and 9")
@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Squared distance to targets: real 1, fake 0, and G wants 1."""

    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * (real_logits - 1).square() + 0.5 * fake_logits.square()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - 1).square()


@LOSSES.register("wasserstein", paper="arXiv:1701.07875, eq. 2-3")
@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    """The critic's difference; needs weight clipping or a gradient penalty to bound the critic."""

    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits


@LOSSES.register("hinge", paper="arXiv:1705.02894; arXiv:1802.05957, eq. 16-17")
@dataclass(frozen=True, kw_only=True)
class Hinge:
    """D stops pushing a sample past its margin of 1; G as in Wasserstein."""

    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.relu(1 - real_logits) + F.relu(1 + fake_logits)

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits


@LOSSES.register("relativistic", paper="arXiv:1807.00734, eq. 4-5; arXiv:2501.05441, eq. 2")
@dataclass(frozen=True, kw_only=True)
class Relativistic:
    """Pairing loss: D wants each real logit above its fake partner's, G the reverse."""

    reads_real: ClassVar[bool] = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits - real_logits)

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        assert real_logits is not None
        return F.softplus(real_logits - fake_logits)
