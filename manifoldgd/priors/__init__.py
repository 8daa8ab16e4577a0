"""Pre-trained latent diffusion models: loading them, and training small ones."""

from manifoldgd.priors.loading import load_prior

__all__ = ["load_prior"]
