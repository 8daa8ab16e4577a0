"""What several tests need of clusterers."""

from manifoldgd.prototypes import Agglomerative, Divisive, KMeans, LevelWise
from manifoldgd.prototypes.spaces import RawLatents

RAW = {"representative": "nearest", "space": RawLatents()}


CLUSTERERS = {
    "divisive": lambda **changes: Divisive(**{"criterion": "sse", "restarts": 10, **RAW, **changes}),
    "levelwise": lambda **changes: LevelWise(
        **{"start_level": 1, "leaves_per_prototype": 2, "criterion": "sse", "restarts": 10, **RAW, **changes}
    ),
    "kmeans": lambda **changes: KMeans(**{"restarts": 5, "iterations": 50, **RAW, **changes}),
    "agglomerative": lambda **changes: Agglomerative(**{**RAW, **changes}),
}


def latents_of(points):
    return points.reshape(len(points), 1, 4, 4)
