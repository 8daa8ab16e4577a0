"""What several tests need of the training of a prior."""

from manifoldgd.priors.training import AutoencoderRecipe, DenoiserRecipe

AUTOENCODER = AutoencoderRecipe(
    image_size=8,
    block_channels=[8, 8],
    latent_channels=2,
    layers_per_block=1,
    steps=12,
    batch_size=8,
    lr=1e-3,
    kl_weight=1e-3,
    ema=0.9,
)
DENOISER = DenoiserRecipe(
    path="diffusion",
    width=8,
    heads=2,
    layers=1,
    patch_size=2,
    steps=12,
    batch_size=8,
    lr=1e-3,
    class_dropout=0.2,
    ema=0.9,
)
