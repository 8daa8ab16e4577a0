"""The benchmarks measure what they say, on sizes that take no time."""

import pytest
import torch
from guidance_parts import MANIFOLD, MODE

from manifoldgd.bench import agreement, sections
from manifoldgd.bench.timing import alternating, median_seconds
from manifoldgd.guidance import ManifoldGuidance, ModeGuidance
from manifoldgd.priors import load_prior

CPU = torch.device("cpu")


def tiny(path):
    return load_prior(path=str(path), autoencoder=None, cfg_scale=2.0, cfg_channels=None)


def test_slow_work_takes_longer_than_quick_work():
    matrix = torch.ones(300, 300)
    quick, slow = (lambda: matrix + 1), (lambda: torch.linalg.inv(matrix + torch.eye(300)))
    one, other = alternating(quick, slow, CPU, 5)
    assert 0 < one < other
    assert median_seconds(slow, CPU, 3) > one


def test_a_device_agrees_with_itself(tiny_prior):
    guidances = {"mode": ModeGuidance(**MODE), "manifold": ManifoldGuidance(**MANIFOLD)}
    found = agreement.latents(tiny(tiny_prior), guidances, CPU, rows=4, steps=5)
    assert found == [{"guidance": name, "difference": 0.0} for name in ("none", "mode", "manifold")]


def test_sections_give_ratios_and_rates(tiny_prior):
    prior = tiny(tiny_prior)
    (row,) = sections.guidance_steps(
        prior, {"mode": ModeGuidance(**MODE | {"t_stop": 0.0})}, CPU, batch=4, steps=3, repetitions=2
    )
    assert row["ratio"] > 0
    assert row["ratio"] == pytest.approx(row["seconds_a_step"] / row["unguided_seconds_a_step"])
    assert sections.over_released(prior, CPU, row["seconds_a_step"], 4, 1)["ratio"] > 0
    assert [one["where"] for one in sections.tangents(CPU, 1, batch=3, neighbours=8)] == [
        "device",
        "processor and back",
    ]
    encoded = sections.encoding(prior, CPU, 2, 1)
    assert [one["weights"] for one in encoded] == ["single, autocast", "bfloat16", "bfloat16, channels last"]
    rates = sections.denoiser_rate(tiny(tiny_prior), CPU, 2, 1, compiled=False)
    assert [one["weights"] for one in rates] == ["single, autocast", "bfloat16, autocast", "bfloat16"]
    assert all(one["gflop_a_row"] == rates[0]["gflop_a_row"] > 0 for one in rates)
