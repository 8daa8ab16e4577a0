"""Guidance methods: one file each, one signature (:class:`manifoldgd.diffusion.protocol.Guidance`)."""

from manifoldgd.guidance.manifold import ManifoldGuidance
from manifoldgd.guidance.manifold_released import ManifoldReleasedGuidance
from manifoldgd.guidance.mode import ModeGuidance
from manifoldgd.guidance.none import NoGuidance

__all__ = ["ManifoldGuidance", "ManifoldReleasedGuidance", "ModeGuidance", "NoGuidance"]
