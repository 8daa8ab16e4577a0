"""A pre-trained latent diffusion model and everything about it that the rest must know.

Latents are scaled here and nowhere else: ``encode`` multiplies by the autoencoder's scaling factor, ``decode`` divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from manifoldgd.artifacts import Key
from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.samplers import PredictionKind, Schedule
from manifoldgd.errors import UserError, require
from manifoldgd.finite import check_finite
from manifoldgd.priors.text import TextConditioning

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

DAMAGED = (
    "its weights may be damaged (fetch or train the prior again) or machine.precision too coarse (set "
    "machine.precision=32-true)"
)

HELD = {"bf16-true": torch.bfloat16, "16-true": torch.float16}  # by Lightning's names


@dataclass(frozen=True)
class Prior:
    """Autoencoder, denoiser and training schedule, as loaded from a folder in diffusers format."""

    name: str
    key: Key  # hash of the files: what results are keyed by
    autoencoder_key: str  # hash of those of the autoencoder: what latents are keyed by
    autoencoder: AutoencoderKL
    network: Any  # the denoiser: a diffusion transformer that is told a label, or what `text` knows how to call
    schedule: Schedule  # the training schedule, all steps
    class_names: tuple[str, ...]  # by the prior's label; none where it is told words
    null_class: int  # label of the unconditional embedding
    variance: Literal["learned_range", "fixed_small", "fixed_large"]
    cfg_channels: int  # leading latent channels that classifier-free guidance acts on
    cfg_scale: float  # what the prior's author recommends
    prediction: PredictionKind = "epsilon"
    text: TextConditioning | None = None  # of a prior that is told words; a label is then a row of its embedded prompts
    revision: str | None = None  # commit of the hub's repository that it came from, if it did
    autoencoder_revision: str | None = None  # the same of the autoencoder

    @property
    def card(self) -> dict[str, Any]:
        """What sampling depends on besides the weights.

        ``schedule``: steps, first, mean and last beta; of a flow, times, shift, and what the network is told at both
        ends. A prediction that is not of noise is named.
        """
        facts: dict[str, Any] = {
            "cfg_scale": self.cfg_scale,
            "cfg_channels": self.cfg_channels,
            "variance": self.variance,
        }
        if isinstance(self.schedule, FlowSchedule):
            flow = self.schedule
            facts["schedule"] = [len(flow), flow.shift, flow.clean, flow.noise]
        else:
            betas = self.schedule.betas
            ends = [round(float(beta), 9) for beta in (betas[0], betas.mean(), betas[-1])]
            facts["schedule"] = [len(betas), *ends]
        return facts | ({} if self.prediction == "epsilon" else {"prediction": self.prediction})

    @property
    def image_channels(self) -> int:
        """Channels of the images that the autoencoder takes."""
        return self.autoencoder.config.in_channels

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the prior was trained on."""
        return self.latent_size * 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels ``C`` of a latent."""
        return self.network.config.in_channels

    @property
    def latent_size(self) -> int:
        """Side ``H = W`` of a latent."""
        return self.network.config.sample_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.latent_channels, self.latent_size, self.latent_size

    def to(self, device: torch.device | str) -> Prior:
        """Move the networks, in place, and return the prior."""
        self.autoencoder.to(device)
        self.network.to(device)
        return self

    def hold(self, precision: str) -> Prior:
        """Keep the weights in half precision, in place, where ``precision`` is one of :data:`HELD`.

        Under autocast single-precision weights are rounded anew at every call, and what lies between matrix products
        stays wide: on a GPU that traffic costs as much as the products. Latents, schedule and geometry stay in single
        precision either way. An autoencoder whose configuration says that half precision overflows (``force_upcast``,
        as Stable Diffusion XL's) is left as it is by ``16-true``.
        """
        if (dtype := HELD.get(precision)) is None:
            return self
        for network in (self.network, self.autoencoder):
            overflows = network is self.autoencoder and network.config.get("force_upcast", False)
            if dtype is torch.bfloat16 or not overflows:
                torch.nn.Module.to(network, dtype)  # diffusers' own prints a notice each time
        return self

    def check_images(self, name: str, shape: tuple[int, int, int]) -> None:
        """Raise :class:`UserError` when the prior cannot take images of ``shape`` ``(C, H, W)``."""
        channels, height, width = shape
        require(
            channels == self.image_channels,
            f"prior {self.name}: takes images with {self.image_channels} channels, dataset {name} has {channels}; "
            "train a prior for such images with `manifoldgd prior output=my_prior` and set prior=my_prior, or make a "
            "set of real images with source=herding",
        )
        require(
            max(height, width) <= self.image_size,
            f"prior {self.name}: takes images of at most {self.image_size}x{self.image_size}, dataset {name} has "
            f"{height}x{width}; set dataset.image_size={self.image_size}, train a prior for this size with `manifoldgd "
            "prior output=my_prior` and set prior=my_prior, or make a set of real images with source=herding",
        )

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """``[n, C, h, w]`` uint8 images -> ``[n, C, H, W]`` scaled latents (the posterior means).

        Images smaller than :attr:`image_size` are padded with black, centred.

        Raises:
            NotFinite: a latent is NaN or infinite.
        """
        pixels = pad_to(as_pixels(images), self.image_size)
        mean = self.autoencoder.encode(pixels.to(self.autoencoder.dtype)).latent_dist.mean.float()
        latents = (mean - (self.autoencoder.config.shift_factor or 0.0)) * self.autoencoder.config.scaling_factor
        check_finite(latents, f"prior {self.name}: the encoder's latents", DAMAGED)
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """``[n, C, H, W]`` scaled latents -> ``[n, C, *size]`` uint8 images (the padding cut off).

        Raises:
            NotFinite: a pixel is NaN or infinite: as a byte it would be black.
        """
        pixels = self.decode_pixels(latents, size)
        check_finite(pixels, f"prior {self.name}: the decoder's images", DAMAGED)
        return as_images(pixels)

    def decode_pixels(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """``[n, C, H, W]`` scaled latents -> ``[n, C, *size]`` float pixels, about in [-1, 1]; differentiable."""
        unscaled = latents / self.autoencoder.config.scaling_factor + (self.autoencoder.config.shift_factor or 0.0)
        return crop_to(self.autoencoder.decode(unscaled.to(self.autoencoder.dtype)).sample, size)

    def denoise(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """The denoiser of the sampler's contract: ``[B, C, H, W]`` -> ``[B, C or 2C, H, W]``."""
        seen = x_t.to(self.network.dtype)
        if self.text is not None:
            return self.text.denoise(self.network, seen, timesteps, labels).float()
        return self.network(seen, timestep=timesteps, class_labels=labels).sample.float()

    @property
    def num_blocks(self) -> int:
        """Transformer blocks that :meth:`block_features` goes through.

        Raises:
            UserError: the prior has no features of this kind.
        """
        if self.text is not None:
            raise UserError(
                f"prior {self.name}: features of a denoiser are those of a transformer that is told a label, and this "
                "prior is told words; set clusterer/space=pooled, or another guidance"
            )
        return len(self.network.transformer_blocks)

    @property
    def block_width(self) -> int:
        """Numbers ``E`` of :meth:`block_features`, 0 where there are none."""
        config = self.network.config
        return 0 if self.text is not None else config.num_attention_heads * config.attention_head_dim

    def block_features(self, x_t: Tensor, timesteps: Tensor, labels: Tensor, blocks: int) -> Tensor:
        """Token means ``[B, E]`` after the first ``blocks`` blocks of the transformer; the others are not run.

        Arguments as for :meth:`denoise`; ``blocks`` is 1 ... :attr:`num_blocks`.
        """
        tokens = self.network.pos_embed(x_t.to(self.network.dtype))
        for block in self.network.transformer_blocks[:blocks]:
            tokens = block(tokens, timestep=timesteps, class_labels=labels)
        return tokens.mean(1)


def as_pixels(images: Tensor) -> Tensor:
    """uint8 ``0 ... 255`` -> float32 ``-1 ... 1``."""
    return images.to(torch.float32).div(127.5).sub(1)


def as_images(pixels: Tensor) -> Tensor:
    """Float ``-1 ... 1`` (clamped) -> uint8 ``0 ... 255`` (rounded, in single precision: half has coarser steps)."""
    return pixels.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def pad_to(pixels: Tensor, side: int) -> Tensor:
    """Centre ``[n, C, h, w]`` pixels on a black square of ``side``."""
    vertical, horizontal = side - pixels.shape[-2], side - pixels.shape[-1]
    if vertical == horizontal == 0:
        return pixels
    top, left = vertical // 2, horizontal // 2
    return functional.pad(pixels, (left, horizontal - left, top, vertical - top), value=-1.0)


def crop_to(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The centre of ``[n, C, h, w]`` pixels: the inverse of :func:`pad_to`."""
    top, left = (pixels.shape[-2] - size[0]) // 2, (pixels.shape[-1] - size[1]) // 2
    return pixels[..., top : top + size[0], left : left + size[1]]
