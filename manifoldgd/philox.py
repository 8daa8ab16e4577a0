"""Normal draws by counter: number ``j`` of a stream depends on the stream's key and ``j`` alone, on every device.

Philox 4x32-10 (J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011) turns a
64-bit key and a counter into four words, here in integer tensor operations. Pairs of words become pairs of normal
numbers (G. Box, M. Muller: A note on the generation of random normal deviates, 1958). Logarithm and angle functions are
polynomials of our own, as those of different devices differ in their last bits: nothing but sums, products, quotients
and square roots in double precision, which IEEE 754 defines to the last bit, so all devices draw the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

# What a configuration and a set's manifest call it; other bits would need another name.
NAME: Literal["philox4x32-10"] = "philox4x32-10"
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by from round to round
MASK = 0xFFFFFFFF
WORD = 2.0**-32
# Calls at once: what a processor's cache holds, and what fills a GPU.
BLOCK_ON_CPU, BLOCK = 1 << 15, 1 << 22
LOG_TERMS = 12  # of 2 artanh(s) = 2 (s + s^3/3 + ...), |s| <= 0.172: the next one is below 1e-20
ANGLE_TERMS = 9  # of the series of sine and cosine, up to pi / 4: the next one is below 1e-18


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Four words of each call.

    Args:
        counter: four int64 tensors with values in [0, 2^32).
        key: two of them, of a shape that broadcasts with the counters'.

    Returns:
        Four int64 tensors with values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # Products wrap at 2^64, and the mask takes away the sign that a shift carries down.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((second >> 32) & MASK) ^ c1 ^ k0, second & MASK
        c2, c3 = ((first >> 32) & MASK) ^ c3 ^ k1, first & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def normal(keys: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal draws ``[B, *shape]`` float32, a stream for each key; a longer stream begins with a shorter one.

    Args:
        keys: in [0, 2^64).
        shape: of each row.
        device: where to draw; Apple's, which has no double precision, is given what the processor draws.
    """
    if torch.device(device).type == "mps":
        return normal(keys, shape).to(device)
    count = math.prod(shape)
    calls = -(-count // 4)
    found = torch.empty(len(keys) * calls, 4, dtype=torch.float32, device=device)
    block = BLOCK_ON_CPU if torch.device(device).type == "cpu" else BLOCK
    halves = torch.tensor([(key & MASK, key >> 32) for key in keys]).reshape(-1, 2).to(device)
    for first in range(0, len(found), block):
        part = found[first : first + block]
        flat = torch.arange(first, first + len(part), device=device)
        row = flat // calls
        call, none = flat - row * calls, torch.zeros_like(flat)
        words = philox((call & MASK, call >> 32, none, none), halves[row].unbind(1))
        torch.stack([*_pair(words[0], words[1]), *_pair(words[2], words[3])], dim=1, out=part)
    return found.view(len(keys), 4 * calls)[:, :count].reshape(len(keys), *shape)


def _pair(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers, float32, from two words; at most 6.7 in size."""
    length = (-2.0 * _log((radius.double() + 0.5) * WORD)).sqrt()
    sine, cosine = _sine_cosine(angle)
    return (length * cosine).float(), (length * sine).float()


def _log(value: Tensor) -> Tensor:
    """Natural logarithm in (0, 1), to some 2e-15 of itself or of 1."""
    mantissa, exponent = torch.frexp(value)  # [0.5, 1)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, mantissa * 2, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = torch.full_like(s, 1 / (2 * LOG_TERMS - 1))
    for term in reversed(range(1, LOG_TERMS)):
        series = series * square + 1 / (2 * term - 1)
    return (exponent - low.to(exponent.dtype)).double() * math.log(2) + 2 * s * series


def _sine_cosine(word: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of ``2 pi (word + 0.5) / 2^32``, to 4e-16."""
    octant = ((word >> 29) + 1) >> 1  # the nearest multiple of a quarter turn, 0 ... 4
    x = ((word - (octant << 30)).double() + 0.5) * (2 * math.pi * WORD)  # in [-pi / 4, pi / 4]
    square = x * x
    sine, cosine = torch.full_like(x, 1.0), torch.full_like(x, 1.0)
    for term in reversed(range(1, ANGLE_TERMS)):
        sine = 1 - sine * square * (1 / (2 * term * (2 * term + 1)))
        cosine = 1 - cosine * square * (1 / (2 * term * (2 * term - 1)))
    sine = sine * x
    swapped, turned = (octant & 1) == 1, octant & 2
    sine, cosine = torch.where(swapped, cosine, sine), torch.where(swapped, -sine, cosine)
    sign = 1.0 - turned.double()
    return sine * sign, cosine * sign
