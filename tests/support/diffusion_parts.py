"""What several tests need of the toy distribution."""

import torch

from manifoldgd.diffusion import NoiseSchedule
from manifoldgd.diffusion.toy import GaussianMixtureDenoiser
from manifoldgd.randomness import RowKey, RowNoise

LINEAR = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)


DITS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


def rows(count, seed=0):
    return RowNoise(seed, [RowKey("a", prototype) for prototype in range(count)])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MEANS = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -3.0]]).view(3, 2, 1, 1)


STDS = torch.tensor([0.3, 0.6, 0.4])


TOY = GaussianMixtureDenoiser(MEANS, STDS, torch.tensor([1.0, 3.0, 1.0]), torch.tensor([0, 0, 1]), LINEAR, null_class=2)
