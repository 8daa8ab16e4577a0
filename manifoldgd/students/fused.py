"""Convolution, instance norm, ReLU and 2x2 average pooling as one operation, for small images on a CPU.

The mathematics is that of the four layers in a row; only the order of the floating-point operations differs. Run one
after the other, the layers read and write each activation about twenty times in a training step, and on a CPU this
memory traffic costs as much as the convolutions. Three things avoid it:

* Activations are kept channels last, ``[B, H, W, C]``, so that pooling adds contiguous rows, and a few images at a time
  go through all layers while they are in the cache (:data:`CACHED_ELEMENTS`).
* A bias before an instance norm is subtracted again by it: it cannot change the output and its gradient is exactly
  zero. It is left out.
* The first layer is a linear map of the ``K = 9 * C_in`` values of a patch, so mean and variance of its output follow
  from the mean and the ``K x K`` covariance of the patches, and the norm folds into one small matrix per image. Its
  full-size output never leaves the cache, forwards or backwards.

Convolutions may be computed in bfloat16 (``half``), twice as fast where the processor has instructions for it. Their
inputs and outputs are rounded; everything between them (norm, pooling, sums, and the first layer, which is no
convolution here) stays in float32.

Shape letters: ``B`` images, ``C`` channels out, ``C_in`` channels in, ``H, W`` sides before pooling, ``L = H * W / 4``
pooled positions, ``K`` values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_ELEMENTS = 1 << 19  # float32 values worked on at a time: 2 MiB, a core's second-level cache
EPS = 1e-5  # added to the variance, as in torch.nn.GroupNorm
SPATIAL = (1, 2)


def _pieces(batch: int, per_image: int) -> list[slice]:
    size = max(1, CACHED_ELEMENTS // per_image)
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def _standardise_(y: Tensor) -> Tensor:
    """Turn ``y`` ``[b, H, W, C]`` into zero mean and unit variance over ``H, W``, in place; return ``1 / std``."""
    y -= y.mean(SPATIAL, keepdim=True)
    rstd = (y * y).mean(SPATIAL, keepdim=True).add_(EPS).rsqrt_()
    y *= rstd
    return rstd


def _pool(z: Tensor, out: Tensor) -> None:
    """Write the means of the 2x2 cells of ``z`` ``[b, H, W, C]`` to ``out`` ``[b, H/2, W/2, C]``."""
    torch.add(z[:, 0::2, 0::2], z[:, 0::2, 1::2], out=out)
    out.add_(z[:, 1::2, 0::2]).add_(z[:, 1::2, 1::2]).mul_(0.25)


class ConvNormReluPool(torch.autograd.Function):
    """``avg_pool(relu(gamma * instance_norm(conv(x)) + beta))`` for a 3x3 convolution with padding 1 and even sides.

    ``apply(x, weight, gamma, beta, keep, half)`` takes ``[B, H, W, C_in]``, ``[C, C_in, 3, 3]``, ``[C]``, ``[C]`` and
    gives ``[B, H/2, W/2, C]``. ``keep`` says whether a backward pass will follow (inside, autograd cannot tell); it
    needs the standardised activation and recomputes the rest. ``half`` convolves in bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, keep: bool, half: bool = False
    ) -> Tensor:
        """Convolve, standardise, rectify and pool a few images at a time."""
        dtype = torch.bfloat16 if half else x.dtype
        batch, height, width, _ = x.shape
        channels = len(weight)
        pooled = x.new_empty(batch, height // 2, width // 2, channels)  # in the precision of x as it came
        kept = x.new_empty(batch, height, width, channels) if keep else None
        rstds = x.new_empty(batch, 1, 1, channels) if keep else None
        x, weight = x.to(dtype), weight.to(dtype).contiguous(memory_format=torch.channels_last)
        for piece in _pieces(batch, height * width * channels):
            y = F.conv2d(x[piece].permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1).to(pooled.dtype)
            rstd = _standardise_(y)
            if kept is not None and rstds is not None:
                kept[piece], rstds[piece] = y, rstd
            _pool(y.mul_(gamma).add_(beta).clamp_min_(0), pooled[piece])
        if keep:
            ctx.save_for_backward(x, weight, gamma, beta, kept, rstds)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the four tensors; those of ``x`` and ``weight`` are ``None`` where nobody asks for them."""
        x, weight, gamma, beta, standardised, rstds = ctx.saved_tensors
        batch, height, width, channels = standardised.shape
        wanted = ctx.needs_input_grad[:2]
        grad_x = grad.new_empty(x.shape) if wanted[0] else None
        grad_weight = gamma.new_zeros(weight.shape)
        grad_gamma, grad_beta = map(torch.zeros_like, (gamma, beta))
        share = 1.0 / (height * width)
        for piece in _pieces(batch, height * width * channels):
            y = standardised[piece]
            g = torch.addcmul(beta, y, gamma).gt_(0)
            g.view(-1, height // 2, 2, width // 2, 2, channels).mul_(grad[piece, :, None, :, None] * 0.25)
            sums = g.sum(SPATIAL, keepdim=True)
            moments = (g * y).sum(SPATIAL, keepdim=True)
            grad_beta += sums.sum((0, 1, 2))
            grad_gamma += moments.sum((0, 1, 2))
            g.addcmul_(y, moments, value=-share).sub_(sums * share).mul_(rstds[piece] * gamma)
            into_x, into_weight = _conv_backward(g.to(x.dtype), x[piece], weight, wanted)
            if into_weight is not None:
                grad_weight += into_weight
            if grad_x is not None and into_x is not None:
                grad_x[piece] = into_x
        return grad_x, grad_weight if wanted[1] else None, grad_gamma, grad_beta, None, None


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients ``([b, H, W, C_in], [C, C_in, 3, 3])`` of a padded 3x3 convolution, each ``None`` unless wanted."""
    into_x, into_weight, _ = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight,
        None,
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        1,
        [*wanted, False],
    )
    return into_x.permute(0, 2, 3, 1) if wanted[0] else None, into_weight if wanted[1] else None


class LinearReluPool(torch.autograd.Function):
    """``mean_q relu(matrix' @ patches[..., q, :])`` over the four members ``q`` of each pooling cell.

    ``apply(patches, matrix)`` takes ``[B, K, 4 * L]``, members of a cell ``L`` columns apart, and ``[B, K, C]``, and
    gives ``[B, L, C]``. The activation is computed again in backward: for the few values of a patch that is cheaper
    than to write and read it.
    """

    @staticmethod
    def forward(ctx: Any, patches: Tensor, matrix: Tensor) -> Tensor:
        """Multiply, rectify and pool a few images at a time."""
        batch, _, columns = patches.shape
        channels = matrix.shape[2]
        pooled = patches.new_empty(batch, columns // 4, channels)
        for piece in _pieces(batch, columns * channels):
            z = torch.bmm(patches[piece].transpose(1, 2), matrix[piece]).clamp_min_(0)
            torch.mean(z.view(-1, 4, columns // 4, channels), 1, out=pooled[piece])
        ctx.save_for_backward(patches, matrix)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gradients of the two; that of ``patches`` is ``None`` where nobody asks for it."""
        patches, matrix = ctx.saved_tensors
        batch, _, columns = patches.shape
        channels = matrix.shape[2]
        grad_patches = torch.empty_like(patches) if ctx.needs_input_grad[0] else None
        grad_matrix = torch.empty_like(matrix)
        for piece in _pieces(batch, columns * channels):
            g = torch.bmm(patches[piece].transpose(1, 2), matrix[piece]).gt_(0)
            g.view(-1, 4, columns // 4, channels).mul_((grad[piece] / 4)[:, None])
            torch.bmm(patches[piece], g, out=grad_matrix[piece])
            if grad_patches is not None:
                torch.bmm(matrix[piece], g.transpose(1, 2), out=grad_patches[piece])
        return grad_patches, grad_matrix


def _cell_patches(images: Tensor, padding: int) -> Tensor:
    """The 3x3 patches of padded images and a row of ones, ``[B, C_in * 9 + 1, 4 * L]``.

    The four members of a pooling cell are ``L`` columns apart.
    """
    windows = F.pad(images, (padding,) * 4).unfold(2, 3, 1).unfold(3, 3, 1)
    batch, channels, height, width = windows.shape[:4]
    patches = images.new_ones(batch, channels * 9 + 1, height * width)
    cells = windows.view(batch, channels, height // 2, 2, width // 2, 2, 3, 3).permute(0, 1, 6, 7, 3, 5, 2, 4)
    patches[:, :-1].view(cells.shape).copy_(cells)
    return patches


def first_block(images: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, padding: int) -> Tensor:
    """The first block of a ConvNet.

    Args:
        images: ``[B, C_in, H, W]``; with ``padding``, both sides of the convolution's output must be even.
        weight: ``[C, C_in, 3, 3]``.
        gamma: Scale ``[C]`` of the instance norm.
        beta: Shift ``[C]`` of the instance norm.
        padding: Zeros around the image.

    Returns:
        ``[B, H_out / 2, W_out / 2, C]``, channels last.
    """
    patches = _cell_patches(images, padding)
    batch, _, count = patches.shape
    centred = patches[:, :-1]
    centred -= centred.mean(2, keepdim=True)
    covariance = torch.bmm(centred, centred.transpose(1, 2)) / count
    rows = weight.flatten(1)
    variance = ((rows @ covariance) * rows).sum(2)
    scaled = (gamma * (variance + EPS).rsqrt())[:, :, None] * rows
    matrix = torch.cat([scaled.transpose(1, 2), beta.expand(batch, 1, -1)], 1)
    pooled = LinearReluPool.apply(patches, matrix)
    side = (images.shape[2] + 2 * padding - 2) // 2
    return pooled.view(batch, side, -1, len(weight))
