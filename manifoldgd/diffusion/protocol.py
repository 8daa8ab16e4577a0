"""What a denoiser and a guidance look like to the sampler.

Symbols, as in the paper: ``x_t`` noisy latent, ``x0`` clean latent predicted from it, ``abar_t`` cumulative product of
alphas. Shape letters: ``B`` rows of the batch, ``C, H, W`` a latent, ``M`` real latents of a neighbourhood, and
``D = C*H*W``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from manifoldgd.randomness import RowNoise


class Denoiser(Protocol):
    """A network that predicts noise (and, with ``2C`` channels, the learned-range variance)."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]`` (0 ... 999), prior labels ``[B]`` -> ``[B, C or 2C, H, W]``."""
        ...


@dataclass(frozen=True)
class Step:
    """What a guidance sees at one denoising step."""

    index: int  # respaced index: num_steps - 1 at the first step, 0 at the last
    num_steps: int
    x_t: Tensor  # [B, C, H, W]
    x0: Tensor  # [B, C, H, W]
    alpha_bar: float  # abar_t
    noise: RowNoise  # for guidances that need draws of their own
    # On a GPU: what x_t alone decides can be found inside, beside the denoiser, which may still be at x0.
    beside: Callable[[], AbstractContextManager[None]] | None = None


@dataclass(frozen=True)
class Pull:
    """What a guidance asks for.

    DDPM adds ``sigma_t * scaled + plain`` to the posterior mean; DDIM adds ``scaled + plain`` to ``x0``. Both step as
    if the denoiser had predicted ``x0 + clean``: such a shift counts more the less noise is left.
    """

    scaled: Tensor | None  # [B, C, H, W]
    plain: Tensor | None  # [B, C, H, W]
    kept: Tensor | None  # [B] share of the guidance vector's energy that the projector keeps, in [0, 1]
    clean: Tensor | None = None  # [B, C, H, W]


Together = Literal["class", "set"]  # images whose rows need to stand in one batch


@dataclass(frozen=True)
class LatentSpace:
    """The latents themselves, in which the images of a class are compared with each other."""

    together: ClassVar[Together] = "class"


@dataclass(frozen=True)
class FeatureSpace:
    """The random features in which synthetic sets are compared with real ones, by their means of each class."""

    networks: int  # random networks in the pool
    width: int  # filters of each
    real_per_class: int  # real images of each class
    pool_seed: int | None = field(default=None, kw_only=True)  # of networks, real images and copies; None: everyone's
    together: ClassVar[Together] = "class"


@dataclass(frozen=True)
class RegressionSpace(FeatureSpace):
    """Random features in which a regression on the synthetic set classifies real images."""

    ridge: float  # > 0, share of the mean of the kernel's diagonal
    temperature: float  # > 0, factor on the regression's outputs
    copies: int = 0  # augmented copies of the set that the regression learns from besides
    augmentation: Any = None  # manifoldgd.students.Augmentation that makes them
    together: ClassVar[Together] = "set"


@dataclass(frozen=True)
class TransportSpace:
    """Weighted centres of the real latents of each class, to which those of a set are transported."""

    clusterer: Any  # manifoldgd.prototypes.Clusterer that finds the centres
    centres: int  # of each class
    regularisation: float  # > 0, of the transport plan, share of the mean cost
    together: ClassVar[Together] = "class"


@dataclass(frozen=True)
class DenoiserSpace:
    """Features of the prior's own network, in which each image is compared with the real ones of its class."""

    features: Any  # manifoldgd.prototypes.DenoiserFeatures
    real_per_class: int  # real images of each class
    together: ClassVar[None] = None  # images do not see one another


SetSpace = LatentSpace | FeatureSpace | TransportSpace | DenoiserSpace  # where a guidance judges sets


@dataclass(frozen=True)
class Anchors:
    """What the rows of a batch are guided towards."""

    prototypes: Tensor  # [B, C, H, W]
    neighbourhoods: Tensor | None  # [B, M, D] real latents of the class nearest to the prototype, nearest first
    energy: SetEnergy | None = None  # of the batch, for guidances that ask for ``features``


class SetEnergy(Protocol):
    """How badly the synthetic images of a batch, as a set, stand for the real ones of their classes."""

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar, differentiable; ``draw`` counts the evaluations of a batch."""
        ...


class EnergySource(Protocol):
    """What a guidance that judges sets needs of a dataset, for all batches of a set."""

    precision: str  # what decoder and networks are computed in, as Lightning names it

    def energy(self, decode: Callable[[Tensor], Tensor], labels: Tensor) -> SetEnergy:
        """The energy of a batch with the classes ``[B]``; ``decode`` gives pixels that gradients flow through."""
        ...


class BoundGuidance(Protocol):
    """A guidance that knows the anchors of its batch."""

    def __call__(self, step: Step) -> Pull | None:
        """The pull at this step; ``None`` where guidance does not act, which leaves the step as it is, bit for bit."""
        ...


class Guidance(Protocol):
    """A guidance method: its scientific numbers only."""

    neighbourhood: int  # real latents wanted around each prototype, 0 for none
    features: SetSpace | None  # where sets are judged, for guidances of many images at once

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The guidance for one batch."""
        ...


class SetGuidance(Guidance, Protocol):
    """A guidance with ``features``."""

    def evaluations(self, steps: int, taken: int) -> int:
        """How often a batch's energy is evaluated when the last ``taken`` of ``steps`` denoising steps are taken."""
        ...
