"""ViT-Tiny, which the later tables of the field add."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldgd.errors import require
from manifoldgd.students.network import MID_SIDE, SMALL_SIDE, ImageShape, Network, seeded


class TransformerBlock(nn.Module):
    """Self-attention and a layer of four times the width, each on normed input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, tokens, width]`` -> the same."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.projection(attended)
        return x + self.mlp(self.norm2(x))


class ViT(Network):
    """ViT-Tiny: DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877) with patches that suit the size of the image.

    Patches of 4 pixels up to 64 pixels, of 8 up to 128, above of 16 as in DeiT; so many that 32 pixels are 64 patches.
    A class token, learned positions. Neither dropout nor stochastic depth: what regularises a student is its protocol.
    Initial weights are normal, cut off, with standard deviation 0.02.

    Args:
        width: Of a token; 64 of it for each attention head, one at least.
        depth: Blocks.

    Raises:
        UserError: Images that are no whole number of patches, or a width that heads do not share evenly.
    """

    label, usual_width, usual_depth = "ViT-Tiny", 192, 12

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, width: int, depth: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        heads, patch = max(1, width // 64), 4 if max(sides) <= SMALL_SIDE else 8 if max(sides) <= MID_SIDE else 16
        require(width % heads == 0, f"expected a multiple of its {heads} heads, got {width}; take 64 a head", "width")
        require(
            all(side % patch == 0 for side in sides),
            f"student: {self.label} needs sides that are multiples of {patch} pixels here, got {sides[0]}x{sides[1]}; "
            "take such images or student=convnet3",
        )
        with seeded(generator):
            self.patches = nn.Conv2d(channels, width, patch, stride=patch)
            self.token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(sides) // patch**2, width))
            self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.embedding_size = width
            self.classifier = nn.Linear(width, num_classes)
            for name, weights in self.named_parameters():
                if weights.ndim > 1:
                    nn.init.trunc_normal_(weights, std=0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(weights)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images ``[B, C, H, W]`` -> ``[B, E]``, the normed class token."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]
