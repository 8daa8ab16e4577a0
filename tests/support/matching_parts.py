"""What several tests need of random networks."""

from manifoldgd.set_guidance.networks import RandomNetworks


def pool(count=2, precision="32-true", width=4, shape=(1, 8, 8)):
    channels = shape[0]
    numbers = {"mean": (0.4,) * channels, "std": (0.3,) * channels, "precision": precision}
    return RandomNetworks(shape, count=count, width=width, **numbers)
