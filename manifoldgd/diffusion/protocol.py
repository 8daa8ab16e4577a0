"""What a denoiser and a guidance look like to the sampler.

Symbols, as in the paper: ``x_t`` noisy latent, ``x0`` clean latent predicted from it, ``abar_t`` cumulative product of
alphas. Shape letters: ``B`` rows of the batch, ``C, H, W`` a latent, ``M`` real latents of a neighbourhood, and
``D = C*H*W``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, cast

from torch import Tensor

from manifoldgd.randomness import RowNoise


class Denoiser(Protocol):
    """A network that predicts noise, or what stands for it (and, with ``2C`` channels, the learned-range variance)."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """``[B, C, H, W]``, original timesteps ``[B]`` (0 ... 999), prior labels ``[B]`` -> ``[B, C or 2C, H, W]``.

        Timesteps are int64, of a flow float32.
        """
        ...


@dataclass(frozen=True)
class Step:
    """What a guidance sees at one denoising step: of a flow, the latent of the diffusion that holds the same."""

    index: int  # respaced index: num_steps - 1 at the first step, 0 at the last
    num_steps: int
    x_t: Tensor  # [B, C, H, W]
    x0: Tensor  # [B, C, H, W]
    alpha_bar: float  # abar_t
    noise: RowNoise  # for guidances that need draws of their own
    # On a GPU: what x_t alone decides can be found inside, beside the denoiser, which may still be at x0.
    beside: Callable[[], AbstractContextManager[None]] | None = None
    # How much x0 changes when x_t does by so much, [B, C, H, W] each, in single precision: it takes another evaluation
    # of the denoiser, or two where that works in half precision, in which a small change would be lost.
    change_of: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Pull:
    """What a guidance asks for.

    DDPM adds ``sigma_t * scaled + plain`` to the posterior mean; DDIM and Euler add ``scaled + plain`` to ``x0``. All
    step as if the denoiser had predicted ``x0 + clean``: such a shift counts more the less noise is left.
    """

    scaled: Tensor | None  # [B, C, H, W]
    plain: Tensor | None  # [B, C, H, W]
    kept: Tensor | None  # [B] share of the guidance vector's energy that the projector keeps, in [0, 1]
    clean: Tensor | None = None  # [B, C, H, W]


@dataclass(frozen=True)
class Anchors:
    """What the rows of a batch are guided towards."""

    prototypes: Tensor  # [B, C, H, W]
    neighbourhoods: Tensor | None  # [B, M, D] real latents of the class nearest to the prototype, nearest first
    energy: SetEnergy | None = None  # of the batch, for guidances that judge sets


class BoundGuidance(Protocol):
    """A guidance that knows the anchors of its batch."""

    def __call__(self, step: Step) -> Pull | None:
        """The pull at this step; ``None`` where guidance does not act, which leaves the step as it is, bit for bit."""
        ...


class Guidance(Protocol):
    """A guidance method: its scientific numbers only. One that holds others names them in ``parts``."""

    @property
    def neighbourhood(self) -> int:
        """Real latents wanted around each prototype, 0 for none."""
        ...

    def bind(self, anchors: Anchors) -> BoundGuidance:
        """The guidance for one batch."""
        ...


class SetEnergy(Protocol):
    """How badly the synthetic images of a batch, as a set, stand for the real ones of their classes."""

    def __call__(self, x0: Tensor, draw: int) -> Tensor:
        """Clean latents ``[B, C, H, W]`` -> scalar, differentiable; ``draw`` counts the evaluations of a batch."""
        ...


Decode = Callable[[Tensor], Tensor]  # scaled latents [B, C, H, W] -> pixels [B, C, h, w] in [-1, 1], differentiable
EnergyOf = Callable[
    [Decode, Tensor], SetEnergy
]  # the prior's decoder and a batch's classes [B], on its device -> its energy
Together = Literal["class", "set"]  # images whose rows need to stand in one batch


def batch_rows(together: Together | None, batch_size: int, *, of_class: int, of_set: int) -> int:
    """Images of a batch: the whole set, as many whole classes as fit but at least one, or as many as are allowed.

    Args:
        together: what needs to stand in one batch.
        batch_size: images allowed, >= 1.
        of_class: images of a class.
        of_set: images in all.
    """
    if together == "set":
        return max(1, of_set)
    return max(1, batch_size // max(1, of_class)) * max(1, of_class) if together == "class" else batch_size


RealSide = TypeVar("RealSide", contravariant=True)  # manifoldgd.set_guidance.descent.RealSide


class Residual(Protocol):
    """What a guidance of sets changes in images that are decoded already."""

    def __call__(self, images: Tensor, energy: SetEnergy) -> Tensor:
        """uint8 ``[B, C, h, w]`` and an energy of pixels in [-1, 1] in place of latents -> uint8."""
        ...


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """What decides how much memory a guidance of sets takes."""

    ipc: int
    real: tuple[int, ...]  # training images of each class
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    features: int  # of a latent, in the prior's own network
    batch_size: int  # images sampled at once where nothing keeps them together

    @property
    def images(self) -> int:
        """Of the set."""
        return self.ipc * len(self.real)

    def rows(self, together: Together | None) -> int:
        """Of a batch."""
        return min(batch_rows(together, self.batch_size, of_class=self.ipc, of_set=self.images), self.images)


@dataclass(frozen=True)
class Need:
    """Memory that a guidance of sets takes at once.

    Attributes:
        num_bytes: how much.
        remedy: what to lower.
        on_host: whether it stays in the processor's memory whatever the device.
    """

    num_bytes: int
    remedy: str
    on_host: bool = False


class SetGuidance(Guidance, Protocol[RealSide]):
    """A guidance of many images at once, which follows ``anchors.energy``."""

    judges_sets: bool  # whether it does; without any strength batches are the usual ones
    together: Together | None  # None where images do not see one another
    random_networks: bool  # whether it looks through random networks, which run in the students' precision

    def prepare(self, real: RealSide) -> EnergyOf:
        """The energies of all batches of a set, from the real training images."""
        ...

    def memory(self, size: SetSize) -> Mapping[str, Need]:
        """What large memory it takes for a set of this size, by what takes it."""
        ...

    def evaluations(self, steps: int, taken: int) -> int:
        """How often a batch's energy is evaluated when the last ``taken`` of ``steps`` denoising steps are taken."""
        ...


def judges_in(guidance: Guidance) -> tuple[SetGuidance, ...]:
    """What judges sets in a guidance: itself, or those of its parts that do."""
    inner = tuple(judge for part in getattr(guidance, "parts", ()) for judge in judges_in(part))
    return (cast(SetGuidance, guidance), *inner) if getattr(guidance, "judges_sets", False) else inner


def residuals_in(guidance: Guidance) -> tuple[Residual, ...]:
    """What the guidances of sets in a guidance still change in decoded images."""
    found = (getattr(judge, "residual", None) for judge in judges_in(guidance))
    return tuple(residual for residual in found if residual is not None)
