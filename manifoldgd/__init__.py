"""Training-free dataset distillation with manifold-guided latent diffusion (ManifoldGD, arXiv 2602.23295)."""

__version__ = "0.1.0"
