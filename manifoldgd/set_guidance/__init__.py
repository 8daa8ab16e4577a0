"""What moves many images at once: energies of a set, random networks to see them through, and descent."""

from manifoldgd.set_guidance.coordinates import NeighbourhoodCoordinates
from manifoldgd.set_guidance.denoiser import DenoiserFeatureGuidance
from manifoldgd.set_guidance.learning import LearningRegressionGuidance
from manifoldgd.set_guidance.matching import MatchingGuidance
from manifoldgd.set_guidance.regression import AugmentedRegressionGuidance, RegressionGuidance
from manifoldgd.set_guidance.repulsion import RepulsionGuidance
from manifoldgd.set_guidance.residual import PixelResidual
from manifoldgd.set_guidance.transport import TransportGuidance

__all__ = [
    "AugmentedRegressionGuidance",
    "DenoiserFeatureGuidance",
    "LearningRegressionGuidance",
    "MatchingGuidance",
    "NeighbourhoodCoordinates",
    "PixelResidual",
    "RegressionGuidance",
    "RepulsionGuidance",
    "TransportGuidance",
]
