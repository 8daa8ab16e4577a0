"""The autoencoder's side of the pipeline: real images to scaled latents."""
