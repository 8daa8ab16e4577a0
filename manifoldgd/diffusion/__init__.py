"""Schedules of diffusions and flows, denoiser interface, DDPM, DDIM and Euler steps, and the one sampling loop."""

from manifoldgd.diffusion.cfg import ClassifierFreeGuidance
from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.loop import StepRecord, sample
from manifoldgd.diffusion.samplers import DDIM, DDPM, Euler
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.diffusion.start import Origin, Start

__all__ = [
    "DDIM",
    "DDPM",
    "ClassifierFreeGuidance",
    "Euler",
    "FlowSchedule",
    "NoiseSchedule",
    "Origin",
    "Start",
    "StepRecord",
    "sample",
]
