"""Neighbourhoods, tangent spaces, noise-level transport, kernels and annealing: pure functions on tensors.

Shape letters of the package: ``B`` rows of a batch, ``N`` points of a bank, ``M`` points of a neighbourhood, ``K``
neighbours, ``D`` flat latent, ``R`` tangent dimension, ``P`` prototypes. All distances are squared Euclidean distances
between scaled latents unless a name says otherwise.
"""
