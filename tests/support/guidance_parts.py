"""What several tests need of guidance."""

import torch

from manifoldgd.diffusion import DDIM, DDPM, NoiseSchedule, sample
from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.diffusion.toy import GaussianMixtureDenoiser
from manifoldgd.guidance import ManifoldGuidance, ManifoldReleasedGuidance, ModeGuidance
from manifoldgd.randomness import RowKey, RowNoise

SHAPE = (2, 3, 4)


D = 24


MODE = {"scale": 0.1, "kernel": "rbf", "bandwidth": 1.0, "t_stop": 0.2}


MANIFOLD = MODE | {
    "estimator": "posterior",
    "tangent_dim": 4,
    "neighbours": 10,
    "neighbourhood": 24,
    "annealing": "linear",
    "warmup_steps": 4,
    "max_multiplier": 2.0,
    "uniform_share": 0.01,
}


RELEASED = {
    "scale": 0.1,
    "manifold_scale": 0.1,
    "radius": 0.05,
    "distance_bandwidth": 0.2,
    "cloud_size": 40,
    "neighbours": 12,
    "tangent_dim": 3,
    "annealing": "exponential",
    "warmup_steps": 5,
    "max_multiplier": 2.0,
    "t_stop": 0.5,
}


ESTIMATORS = ("noised", "clean", "posterior")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def keys(count):
    return [RowKey("a", prototype) for prototype in range(count)]


def anchors(count, size=24):
    prototypes = randn(64, *SHAPE, seed=1)[:count]
    spread = randn(64, 24, D, seed=2)[:count, :size] * torch.linspace(2, 0.1, D)
    return Anchors(prototypes, prototypes.flatten(1)[:, None] + spread)


def step(index=40, count=5, num_steps=50, alpha_bar=0.4):
    x_t, x0 = randn(64, *SHAPE, seed=3)[:count], randn(64, *SHAPE, seed=4)[:count]
    return Step(index, num_steps, x_t, x0, alpha_bar, RowNoise(0, keys(count)))


def everything(**changes):
    """One of each acting method, with the same changed numbers."""
    made = [ModeGuidance(**MODE | changes)]
    made += [ManifoldGuidance(**MANIFOLD | {"estimator": name} | changes) for name in ESTIMATORS]
    return [*made, ManifoldReleasedGuidance(**RELEASED | changes)]


LINEAR = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)


CENTRES = randn(3, *SHAPE, seed=6)


TOY = GaussianMixtureDenoiser(
    CENTRES, torch.full((3,), 0.5), torch.ones(3), torch.zeros(3).long(), LINEAR, null_class=1
)


def draw(count, guidance, sampler, rows=None):
    rows = rows or keys(count)
    return sample(
        TOY,
        LINEAR.respaced(sampler.steps, sampler.spacing),
        sampler,
        labels=torch.zeros(len(rows)).long(),
        noise=RowNoise(0, rows),
        shape=SHAPE,
        variance="fixed_small",
        guidance=guidance,
    )


SAMPLERS = [DDPM(steps=20, cfg_scale=None), DDIM(steps=20, eta=0.0, cfg_scale=None)]
