"""Points in clusters that are easy to see, for the tests of clustering."""

import numpy as np
import torch


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(sizes, spread=0.1, dimensions=16, seed=0):
    """Well separated Gaussian clusters of the given sizes, shuffled, and the cluster of each point."""
    generator = draws(seed)
    centers = 10 * torch.eye(len(sizes), dimensions)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return centers[labels] + spread * torch.randn(len(labels), dimensions, generator=generator), labels


def sse_of(points, labels):
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    return sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))
