"""Noise schedule, denoiser interface, DDPM and DDIM steps, and the one sampling loop."""

from manifoldgd.diffusion.cfg import ClassifierFreeGuidance
from manifoldgd.diffusion.loop import StepRecord, sample
from manifoldgd.diffusion.samplers import DDIM, DDPM
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.diffusion.start import Origin, Start

__all__ = ["DDIM", "DDPM", "ClassifierFreeGuidance", "NoiseSchedule", "Origin", "Start", "StepRecord", "sample"]
