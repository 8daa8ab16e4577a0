"""Guidance methods, one signature (:class:`manifoldgd.diffusion.protocol.Guidance`).

Those of single images live here. Those of sets live in :mod:`manifoldgd.set_guidance`, as they look at real images
through students' networks; here they are found by the same names, and loaded when they are asked for.
"""

from importlib import import_module

from manifoldgd.guidance.composed import AtNoisyLatent, CombinedGuidance, LateGuidance, OnPrediction
from manifoldgd.guidance.kalman import DenoiserKalmanGuidance, KalmanGuidance
from manifoldgd.guidance.manifold import ManifoldGuidance
from manifoldgd.guidance.manifold_released import ManifoldReleasedGuidance
from manifoldgd.guidance.mode import ModeGuidance
from manifoldgd.guidance.none import NoGuidance
from manifoldgd.guidance.posterior import PosteriorGuidance
from manifoldgd.guidance.projected_target import ProjectedTargetGuidance

OF_SETS = (
    "AugmentedRegressionGuidance",
    "DenoiserFeatureGuidance",
    "LearningRegressionGuidance",
    "MatchingGuidance",
    "NeighbourhoodCoordinates",
    "PixelResidual",
    "RegressionGuidance",
    "RepulsionGuidance",
    "TransportGuidance",
)
__all__ = [
    "AtNoisyLatent",
    "CombinedGuidance",
    "DenoiserKalmanGuidance",
    "KalmanGuidance",
    "LateGuidance",
    "ManifoldGuidance",
    "ManifoldReleasedGuidance",
    "ModeGuidance",
    "NoGuidance",
    "OnPrediction",
    "PosteriorGuidance",
    "ProjectedTargetGuidance",
]
__all__ += OF_SETS


def __getattr__(name: str) -> type:
    if name not in OF_SETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("manifoldgd.set_guidance"), name)
