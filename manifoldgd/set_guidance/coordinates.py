"""Coordinates in which a set's descent steps: those of each image's real neighbourhood, long where the data vary.

Gradients of set guidances hold no data, so nothing keeps their steps near real images. Written in the principal
directions of the real latents around its prototype, each as long as the data spread along it, an image moves far where
real images differ and hardly where they do not. Adam divides by a gradient's size in each coordinate, so it is the
choice of coordinates that says how far a step goes in which direction. This is not in ManifoldGD (arXiv 2602.23295),
which projects the pull towards a prototype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from manifoldgd.diffusion.protocol import Anchors
from manifoldgd.geometry.tangent import principal_axes
from manifoldgd.guidance.tangents import Neighbourhood, bind_neighbourhoods
from manifoldgd.ranges import Range, checked


@checked
@dataclass(frozen=True, kw_only=True)
class NeighbourhoodCoordinates:
    """``x0 = A y`` with ``A = U diag(s) U^T + s_0 (I - U U^T)``, and Adam's steps are taken in ``y``.

    ``U`` are the principal directions of the neighbours, ``lambda`` the variances along them, ``s^2`` is proportional
    to ``lambda + floor * mean`` and ``s_0^2`` to ``floor * mean``, with the mean variance ``trace / D`` over all
    coordinates. ``s`` is scaled to a mean square of 1 over the ``D`` directions, so a step in which all coordinates
    move alike is as long as one in the latents' own. Inside the span Adam sees one number for each principal
    direction; outside of it, where nothing tells directions apart, those of the latent.

    Attributes:
        neighbourhood: ``M``, real latents of the class nearest to the prototype, >= 2.
        floor: >= 0, variance that every direction has besides, as a share of the mean; 0 never leaves the tangent
            space, and much makes all directions alike.
    """

    neighbourhood: Neighbourhood
    floor: Annotated[float, Range("[0, 1000000]")]

    def bind(self, anchors: Anchors) -> BoundCoordinates:
        """Those of the prototypes' real neighbourhoods.

        Raises:
            ValueError: other neighbourhoods or none came.
        """
        points = bind_neighbourhoods(anchors, self.neighbourhood)
        # A neighbourhood at a time: its Gram matrix and directions are the largest arrays here.
        found = [principal_axes(each[None], self.neighbourhood - 1) for each in points]
        axes, variances = (torch.cat(parts) for parts in zip(*found, strict=True))
        size = points.shape[2]
        least = self.floor * variances.sum(1, keepdim=True) / size  # [B, 1]
        squares = torch.where(variances > 0, variances + least, torch.zeros_like(variances))
        outside = size - (variances > 0).sum(1, keepdim=True)  # directions that the neighbours do not span
        mean = (squares.sum(1, keepdim=True) + outside * least) / size
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))  # copies of one image have no tangent space
        return BoundCoordinates(axes, (squares / mean).sqrt(), (least / mean).sqrt())


@dataclass(frozen=True)
class BoundCoordinates:
    """Of the images of a batch."""

    axes: Tensor  # [B, R, D], zero rows where the neighbours span fewer directions
    lengths: Tensor  # [B, R]: s
    outside: Tensor  # [B, 1]: s_0

    def gradient(self, gradient: Tensor) -> Tensor:
        """``dE/dy`` ``[B, R + D]`` from ``dE/dx0`` ``[B, C, H, W]``: along the axes, then outside of their span."""
        flat = gradient.flatten(1)
        along, rest = self._split(flat)
        return torch.cat([self.lengths * along, self.outside * rest], 1)

    def moved(self, step: Tensor, shape: torch.Size) -> Tensor:
        """The step of ``x0``, of ``shape`` ``[B, C, H, W]``, that a step ``[B, R + D]`` of ``y`` is."""
        along, rest = step.split([self.lengths.shape[1], step.shape[1] - self.lengths.shape[1]], 1)
        _, rest = self._split(rest)  # Adam scales coordinates one by one, which turns a vector into the span
        return (self._spanned(self.lengths * along) + self.outside * rest).view(shape)

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        along = (self.axes @ flat[:, :, None])[:, :, 0]
        return along, flat - self._spanned(along)

    def _spanned(self, along: Tensor) -> Tensor:
        return (along[:, None] @ self.axes)[:, 0]
