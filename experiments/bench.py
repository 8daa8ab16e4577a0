"""Speed as ratios within one run: ``make bench``.

1. A guided sampling step over an unguided one, for each guidance, at batch 64 on the bundled Fashion-MNIST prior.
2. Tangent bases of 64 samples (64 neighbours, D = 4096, d = 8), per sample, over one 4096 x 4096 ``eigh`` of the same
   covariance.

Each figure is the median of alternating repetitions, so that a machine that slows down slows both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from manifoldgd.diffusion import DDPM, ClassifierFreeGuidance, sample
from manifoldgd.diffusion.protocol import Anchors, Guidance
from manifoldgd.geometry.tangent import tangent_basis
from manifoldgd.guidance import ManifoldGuidance, ManifoldReleasedGuidance, ModeGuidance
from manifoldgd.priors import load_prior
from manifoldgd.randomness import RowKey, RowNoise, generator

BATCH = 64
MANIFOLD = {
    "scale": 0.1,
    "tangent_dim": 16,
    "neighbours": 48,
    "neighbourhood": 128,
    "annealing": "exponential",
    "warmup_steps": 5,
    "max_multiplier": 1.0,
    "uniform_share": 0.01,
    "kernel": "rbf",
    "bandwidth": 1.0,
    "t_stop": 0.0,  # every step but the last is guided: the worst case
}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternating(first: Callable[[], object], second: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median seconds of two kinds of work, measured in turns."""
    first(), second()  # warm-up
    pairs = [(seconds(first), seconds(second)) for _ in range(repetitions)]
    return statistics.median(one for one, _ in pairs), statistics.median(two for _, two in pairs)


def guidances() -> dict[str, Guidance]:
    """Guidances towards prototypes at comparable numbers."""
    released = {"manifold_scale": 0.1, "radius": 0.05, "distance_bandwidth": 0.2, "cloud_size": 300}
    paper = {"neighbours": 12, "tangent_dim": 3, "annealing": "exponential", "warmup_steps": 5, "t_stop": 0.0}
    return {
        "mode": ModeGuidance(scale=0.1, kernel="rbf", bandwidth=1.0, t_stop=0.0),
        "manifold (posterior)": ManifoldGuidance(estimator="posterior", **MANIFOLD),
        "manifold (clean)": ManifoldGuidance(estimator="clean", **MANIFOLD),
        "manifold (noised, d 3, K 12)": ManifoldGuidance(
            estimator="noised", **MANIFOLD | {"tangent_dim": 3, "neighbours": 12}
        ),
        "manifold_released": ManifoldReleasedGuidance(scale=0.1, max_multiplier=2.0, **released, **paper),
    }


def guided_over_unguided(steps: int, repetitions: int) -> None:
    """Print the first table."""
    prior = load_prior(path="bundled:fashion_mnist", autoencoder=None, cfg_scale=None, cfg_channels=None)
    denoiser = ClassifierFreeGuidance(prior.denoise, prior.cfg_scale, prior.null_class, prior.cfg_channels)
    schedule = prior.schedule.respaced(steps, "ddpm")
    rows = RowNoise(0, [RowKey(str(row % 10), row // 10) for row in range(BATCH)])
    labels = torch.arange(BATCH) % 10
    draws = generator("bench")
    anchors = Anchors(
        torch.randn(BATCH, *prior.latent_shape, generator=draws),
        torch.randn(BATCH, MANIFOLD["neighbourhood"], prior.latent_channels * prior.latent_size**2, generator=draws),
    )

    def run(guidance: Guidance | None) -> None:
        sample(
            denoiser,
            schedule,
            DDPM(steps=steps, cfg_scale=None),
            labels=labels,
            noise=rows,
            shape=prior.latent_shape,
            variance=prior.variance,
            guidance=None if guidance is None else guidance.bind(anchors),
        )

    print(f"guided over unguided step, batch {BATCH}, CFG {prior.cfg_scale}, {torch.get_num_threads()} threads")
    for name, guidance in guidances().items():
        plain, guided = alternating(lambda: run(None), lambda each=guidance: run(each), repetitions)
        print(f"  {name:30} {guided / plain:.3f}   ({1000 * guided / steps:.0f} over {1000 * plain / steps:.0f} ms)")


def tangent_over_eigh(repetitions: int) -> None:
    """Print the second figure."""
    samples, neighbours, size, rank = 64, 64, 4096, 8
    points = torch.randn(samples, neighbours, size, generator=generator("bench", "tangent"))
    centred = points[0] - points[0].mean(0)
    covariance = centred.T @ centred / neighbours
    basis = statistics.median(seconds(lambda: tangent_basis(points, rank)) for _ in range(repetitions + 1)) / samples
    full = statistics.median(seconds(lambda: torch.linalg.eigh(covariance)) for _ in range(max(1, repetitions // 3)))
    print(f"tangent basis, {samples} samples, K {neighbours}, D {size}, d {rank}: {1000 * basis:.2f} ms a sample")
    print(f"  one {size} x {size} eigh of the same covariance: {full:.1f} s, {full / basis:,.0f} times as long")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="denoising steps a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    guided_over_unguided(arguments.steps, arguments.repetitions)
    tangent_over_eigh(arguments.repetitions)


if __name__ == "__main__":
    main()
