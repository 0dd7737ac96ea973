"""Adversarial losses on logits: one value a sample, no reduction, no device, no logging.

Names say the mathematics: `minimax` is the saturating game of the first paper; what most code calls so is `non_saturating`.
Each is written with softplus, never as the log of a sigmoid, so that logits of any size give finite values and gradients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from ganlib.registry import Registry
from ganlib.scalars import LOGIT_FAKE, LOGIT_REAL


class Loss(Protocol):
    """`discriminator` and `generator` map logits [N] to losses [N]; `reads_real` says that the generator's loss needs real logits."""

    reads_real: ClassVar[bool]

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor: ...


LOSSES: Registry[Any] = Registry("loss", package="ganlib.losses")


@dataclass(frozen=True, kw_only=True)
class _CrossEntropy:
    """D as a classifier of real against generated. `smoothing`: its target at real images is 1 - smoothing (arXiv:1606.03498, section 3.4)."""

    smoothing: float = 0.0
    reads_real: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 0.5:
            raise ValueError(f"smoothing={self.smoothing}: expected 0 to 0.5 (params.yaml: task.loss_options.smoothing)")

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:  # [N], [N] -> [N]
        real = F.softplus(-real_logits) + self.smoothing * real_logits  # (1 - s) softplus(-r) + s softplus(r)
        return real + F.softplus(fake_logits)


@LOSSES.register("minimax", paper="arXiv:1406.2661, eq. 1")
@dataclass(frozen=True, kw_only=True)
class Minimax(_CrossEntropy):
    """The saturating two-player game: D maximises, G minimises log D(x) + log(1 - D(G(z)))."""

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -F.softplus(fake_logits)  # log(1 - sigmoid(f))


@LOSSES.register("non_saturating", paper="arXiv:1406.2661, section 3")
@dataclass(frozen=True, kw_only=True)
class NonSaturating(_CrossEntropy):
    """D as in minimax; G minimises -log D(G(z)), which keeps its gradient when D rejects everything."""

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits)


@LOSSES.register("least_squares", paper="arXiv:1611.04076, eq. 2 and 9")
@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """Squared distance to targets: real 1, fake 0, and G wants 1 (the paper's b, a and c)."""

    real_target: float = 1.0
    fake_target: float = 0.0
    generator_target: float = 1.0
    reads_real: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * (real_logits - self.real_target).square() + 0.5 * (fake_logits - self.fake_target).square()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - self.generator_target).square()


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


@LOSSES.register("relativistic", paper="arXiv:1807.00734; arXiv:2501.05441, eq. 2")
@dataclass(frozen=True, kw_only=True)
class Relativistic:
    """Pairing loss: D wants each real logit above its fake partner's, G the reverse; or above the mean of all (`average`, RaSGAN).

    Args:
        average: each logit is held against the mean of the other kind over the shard.
    """

    average: bool = False
    reads_real: ClassVar[bool] = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        if self.average:
            return F.softplus(fake_logits.mean() - real_logits) + F.softplus(fake_logits - real_logits.mean())
        return F.softplus(fake_logits - real_logits)

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        assert real_logits is not None
        return self.discriminator(fake_logits, real_logits)


@LOSSES.register("began", paper="arXiv:1703.10717, eq. 5")
@dataclass(frozen=True, kw_only=True)
class Began:
    """D reconstructs real images better than generated ones; k holds the two errors at a ratio. For the family `began`.

    The logit is minus the reconstruction error: L(x) = -D(x). The paper halves the learning rate where its measure of convergence stalls (section
    4.1), without saying what a stall is; that is not built, because any rule for it would be ours: give optim.*.lr a schedule instead.

    Args:
        k: weight of generated images in D's loss; where it starts, it moves within [0, 1].
        gamma: diversity ratio, the error of generated images over that of real ones at equilibrium; lower means sharper and more alike.
        rate: of k, per step (the paper's lambda_k).
    """

    k: float = 0.0
    gamma: float = 0.5
    rate: float = 0.001
    reads_real: ClassVar[bool] = False
    steered: ClassVar[tuple[str, ...]] = ("k",)
    watches: ClassVar[tuple[str, ...]] = (LOGIT_REAL, LOGIT_FAKE)

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self.k * fake_logits - real_logits

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        return -fake_logits

    def adapt(self, means: Mapping[str, float], images: int) -> "Began":
        k = self.k + self.rate * (means[LOGIT_FAKE] - self.gamma * means[LOGIT_REAL])
        return replace(self, k=min(1.0, max(0.0, k)))
