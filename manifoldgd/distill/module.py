"""The denoising loop as Lightning's predict step: a batch of work items in, images out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from lightning import LightningModule
from torch import Tensor

from manifoldgd.artifacts import LatentSet, PrototypeSet
from manifoldgd.diffusion.cfg import ClassifierFreeGuidance, InParts
from manifoldgd.diffusion.loop import StepRecord, sample
from manifoldgd.diffusion.protocol import (
    Anchors,
    BoundGuidance,
    EnergyOf,
    Guidance,
    SetEnergy,
    judges_in,
    residuals_in,
)
from manifoldgd.diffusion.samplers import Sampler
from manifoldgd.diffusion.start import PURE_NOISE, Origin, Start
from manifoldgd.distill.items import WorkItem
from manifoldgd.errors import under
from manifoldgd.finite import NotFinite
from manifoldgd.geometry.neighbours import neighbourhood_indices
from manifoldgd.machine import Backend
from manifoldgd.memory import AtOnce, enough
from manifoldgd.priors.prior import Prior
from manifoldgd.randomness import RowNoise

DECODED_PIXELS = 2**20  # at once: 16 images of 256x256, whose activations are 6 GB in single precision


@dataclass(frozen=True)
class Targets:
    """What guidance pulls towards, or sampling starts from, for all prototypes of a set."""

    prototypes: PrototypeSet
    latents: LatentSet
    neighbourhoods: Tensor | None  # [P, M] int64 rows of `latents`, nearest first

    def anchors(self, items: list[WorkItem], device: torch.device) -> Anchors:
        """The prototypes and real neighbourhoods of a batch."""
        positions = self._positions(items)
        neighbourhoods = None
        if self.neighbourhoods is not None:
            rows = self.neighbourhoods[positions]  # [B, M]
            neighbourhoods = self.latents.of(rows).flatten(2).to(device)  # [B, M, D]
        return Anchors(self.of(items, device), neighbourhoods)

    def of(self, items: list[WorkItem], device: torch.device) -> Tensor:
        """The prototypes ``[B, C, H, W]`` of a batch."""
        return self.prototypes.prototypes[self._positions(items)].to(device)

    def _positions(self, items: list[WorkItem]) -> Tensor:
        return torch.tensor([item.label * self.prototypes.ipc + item.rank for item in items])


def find_targets(prototypes: PrototypeSet, latents: LatentSet, size: int, *, backend: Backend | None = None) -> Targets:
    """Search the ``size`` real latents of the class nearest to each prototype (``size`` 0: none are needed)."""
    if size == 0:
        return Targets(prototypes, latents, None)
    rows = neighbourhood_indices(
        prototypes.prototypes,
        prototypes.labels,
        latents.latents,
        latents.labels,
        size,
        class_names=latents.class_names,
        backend=backend,
    )
    return Targets(prototypes, latents, rows)


@dataclass(frozen=True)
class Synthesised:
    """A finished batch."""

    items: list[WorkItem]
    images: Tensor  # [B, C, h, w] uint8
    ratios: Tensor  # [B, T] ||guidance|| / ||noise|| of each step taken, in order; NaN without guidance or noise
    kept: Tensor  # [B, T] share of the mode vector that the projector keeps; NaN where nothing is projected
    runaway: Tensor  # [B] int64 steps at which the guidance was beyond RUNAWAY times the noise


class DistillModule(LightningModule):
    """Samples one image for each item.

    Args:
        prior: denoiser, autoencoder, schedule.
        sampler: steps from ``x_t`` to ``x_prev``.
        guidance: a guidance method; acts only where there are ``targets``.
        targets: prototypes and neighbourhoods, or ``None`` where neither guidance nor start needs any.
        energy_of: gives the energies of batches, for a guidance that judges sets; ``None`` for one that does not.
        image_size: ``(h, w)`` of the images to return.
        seed: distillation seed.
        start: pure noise, or the noised prototypes of ``targets``.
        at_once: rows that the denoiser takes at a time, and the decoder of small images; a batch may be larger.
    """

    def __init__(
        self,
        prior: Prior,
        sampler: Sampler,
        guidance: Guidance,
        targets: Targets | None,
        energy_of: EnergyOf | None = None,
        *,
        image_size: tuple[int, int],
        seed: int,
        at_once: int,
        start: Start = PURE_NOISE,
    ) -> None:
        super().__init__()
        if start.from_prototype and targets is None:
            raise ValueError("targets: expected prototypes to start from, got None")
        self.network, self.autoencoder = prior.network, prior.autoencoder  # registered: Lightning moves them
        self.prior, self.sampler, self.guidance, self.targets = prior, sampler, guidance, targets
        self.energy_of, self.start = energy_of, start
        self.image_size, self.seed = image_size, seed
        # Not as many as are sampled: what lies between the decoder's layers is as wide as its images.
        self._decoded_at_once = AtOnce(min(at_once, max(1, DECODED_PIXELS // math.prod(image_size))), "decoding")
        self.on_step: Callable[[StepRecord], None] = lambda record: None
        self.on_evaluation: Callable[[], None] = lambda: None  # of the set energy, many times in a step
        with under("sampler"):
            self.schedule = prior.schedule.respaced(sampler.steps, sampler.spacing)
        scale = prior.cfg_scale if sampler.cfg_scale is None else sampler.cfg_scale
        guided = ClassifierFreeGuidance(prior.denoise, scale, prior.null_class, prior.cfg_channels)
        self.denoiser = InParts(guided, at_once)

    def transfer_batch_to_device(self, batch: list[WorkItem], device: torch.device, index: int) -> list[WorkItem]:
        """Items stay as they are: Lightning would take frozen dataclasses apart to look for tensors."""
        return batch

    def predict_step(self, items: list[WorkItem]) -> Synthesised:
        records: list[StepRecord] = []

        def observe(record: StepRecord) -> None:
            records.append(record)
            self.on_step(record)

        with enough(f"guidance: what it needs of {len(items)} images at once", self._remedy(items)):
            latents = sample(
                self.denoiser,
                self.schedule,
                self.sampler,
                labels=torch.tensor([item.prior_label for item in items]),
                noise=RowNoise(self.seed, [item.row_key for item in items], self.device),
                shape=self.prior.latent_shape,
                variance=self.prior.variance,
                prediction=self.prior.prediction,
                guidance=self._bound(items),
                on_step=observe,
                origin=self._origin(items),
            )
        return Synthesised(items, self._refined(items, self._images(items, latents)), *_curves(records))

    def _remedy(self, items: list[WorkItem]) -> str:
        judges = judges_in(self.guidance) if self.energy_of is not None else ()
        together = judges[0].together if judges else None
        apart = together is None or (together == "class" and items[0].label != items[-1].label)
        images = "machine.batch_size" if apart else f"ipc, as all images of a {together} are moved together"
        return f"lower {images}, or guidance.neighbourhood or what else the guidance takes many of"

    def _images(self, items: list[WorkItem], latents: Tensor) -> Tensor:
        try:
            return self._decoded_at_once(lambda part: self.prior.decode(part, self.image_size).cpu(), latents)
        except NotFinite as error:
            item = items[error.rows[0]]
            message = f"sampling: class {item.class_name!r}, prototype {item.rank}, replica {item.replica}: {error}. "
            raise NotFinite(f"{message}Images finished before are kept", error.rows) from None

    def _refined(self, items: list[WorkItem], images: Tensor) -> Tensor:
        """The images with what a guidance of sets still changes in them: the energy sees pixels as they are."""
        if self.energy_of is not None:
            for residual in residuals_in(self.guidance):
                energy = self._counted(self.energy_of(lambda pixels: pixels, self._labels(items)))
                with enough(
                    f"guidance: the residual of {len(items)} images at once",
                    f"{self._remedy(items)}, or leave the residual out",
                ):
                    images = residual(images.to(self.device), energy).cpu()
        return images

    def _labels(self, items: list[WorkItem]) -> Tensor:
        return torch.tensor([item.label for item in items]).to(self.device)

    def _origin(self, items: list[WorkItem]) -> Origin | None:
        if self.targets is None or not self.start.from_prototype:
            return None
        return Origin(self.targets.of(items, self.device), self.start.remaining(len(self.schedule)))

    def _bound(self, items: list[WorkItem]) -> BoundGuidance | None:
        if self.targets is None:
            return None
        anchors = self.targets.anchors(items, self.device)
        if self.energy_of is not None:
            energy = self.energy_of(self._decode, self._labels(items))
            anchors = replace(anchors, energy=self._counted(energy))
        return self.guidance.bind(anchors)

    def _counted(self, energy: SetEnergy) -> SetEnergy:
        def evaluate(x0: Tensor, draw: int) -> Tensor:
            value = energy(x0, draw)
            self.on_evaluation()
            return value

        return evaluate

    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels that gradients flow through, in the precision that whoever asks works in."""
        return self.prior.decode_pixels(latents, self.image_size).float()


def _curves(records: list[StepRecord]) -> tuple[Tensor, Tensor, Tensor]:
    ratios, kept = [], []
    for record in records:
        compared = (record.guidance_norm > 0) & (record.noise_norm > 0)  # no noise is left at the last step
        ratios.append(torch.where(compared, record.guidance_norm / record.noise_norm, torch.nan))
        kept.append(torch.full_like(record.guidance_norm, torch.nan) if record.kept is None else record.kept)
    runaway = torch.stack([record.runaway for record in records]).sum(0)
    return torch.stack(ratios, dim=1).cpu(), torch.stack(kept, dim=1).cpu(), runaway.cpu()
