"""Guidance methods: one file each, one signature (:class:`manifoldgd.diffusion.protocol.Guidance`)."""

from manifoldgd.guidance.at_noisy_latent import AtNoisyLatent
from manifoldgd.guidance.combined import CombinedGuidance
from manifoldgd.guidance.denoiser_features import DenoiserFeatureGuidance
from manifoldgd.guidance.kalman import KalmanGuidance
from manifoldgd.guidance.late import LateGuidance
from manifoldgd.guidance.manifold import ManifoldGuidance
from manifoldgd.guidance.manifold_released import ManifoldReleasedGuidance
from manifoldgd.guidance.matching import MatchingGuidance
from manifoldgd.guidance.mode import ModeGuidance
from manifoldgd.guidance.none import NoGuidance
from manifoldgd.guidance.on_prediction import OnPrediction
from manifoldgd.guidance.posterior import PosteriorGuidance
from manifoldgd.guidance.projected_target import ProjectedTargetGuidance
from manifoldgd.guidance.regression import AugmentedRegressionGuidance, RegressionGuidance
from manifoldgd.guidance.repulsion import RepulsionGuidance
from manifoldgd.guidance.transport import TransportGuidance

__all__ = [
    "AtNoisyLatent",
    "AugmentedRegressionGuidance",
    "CombinedGuidance",
    "DenoiserFeatureGuidance",
    "KalmanGuidance",
    "LateGuidance",
    "ManifoldGuidance",
    "ManifoldReleasedGuidance",
    "MatchingGuidance",
    "ModeGuidance",
    "NoGuidance",
    "OnPrediction",
    "PosteriorGuidance",
    "ProjectedTargetGuidance",
    "RegressionGuidance",
    "RepulsionGuidance",
    "TransportGuidance",
]
