"""The benchmarks measure what they say, on sizes that take no time."""

import json

import pytest
import torch
from guidance_parts import MANIFOLD, MODE

from manifoldgd.bench import agreement, growth, sections
from manifoldgd.bench.timing import alternating, median_seconds
from manifoldgd.cli import bench as command
from manifoldgd.errors import UserError
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


def test_draws_of_a_device_are_those_of_the_processor():
    found = agreement.draws(CPU, rows=2, numbers=64)
    assert (found["numbers"], found["different"]) == (128, 0)
    assert min(found["seconds"], found["torch_seconds"]) > 0


def test_sections_give_ratios_and_rates(tiny_prior):
    prior = tiny(tiny_prior)
    (row,) = sections.guidance_steps(
        prior, {"mode": ModeGuidance(**MODE | {"t_stop": 0.0})}, CPU, batch=4, steps=3, repetitions=2
    )
    assert row["ratio"] > 0
    assert row["ratio"] == pytest.approx(row["seconds_a_step"] / row["unguided_seconds_a_step"])
    assert sections.over_released(prior, CPU, row["seconds_a_step"], 4, 1)["ratio"] > 0
    bases = sections.tangents(CPU, 1, batch=3, neighbours=8, size=32)
    assert [one["ratio"] for one in bases] == pytest.approx([bases[-1]["seconds"] / one["seconds"] for one in bases])
    encoded = sections.encoding(prior, CPU, 2, 1)
    assert [one["weights"] for one in encoded] == ["single, autocast", "bfloat16", "bfloat16, channels last"]
    rates = sections.denoiser_rate(tiny(tiny_prior), CPU, 2, 1, compiled=False)
    assert [one["weights"] for one in rates] == ["single, autocast", "bfloat16, autocast", "bfloat16"]
    assert all(one["gflop_a_row"] == rates[0]["gflop_a_row"] > 0 for one in rates)


def test_clustering_is_compared_at_the_sums_that_both_reach():
    found = sections.bisecting_kmeans(60, 8, 5, 1)
    assert found["ratio"] == pytest.approx(found["scikit_learn_seconds"] / found["seconds"])
    assert found["sum_of_squares_over_theirs"] == pytest.approx(1, abs=0.2)


def test_growth_is_measured_size_by_size():
    rows = growth.growth((80,), (), (20,))
    assert [(row["growing"], row["size"]) for row in rows] == [("latents of a class", 80), ("images of a set", 20)]
    assert all(value >= 0 for row in rows for name, value in row.items() if name.endswith(("seconds", "gib")))


def test_the_command_writes_each_section_beside_those_of_before(tmp_path, monkeypatch, capsys):
    def broken(bench):
        raise RuntimeError("no room")

    monkeypatch.setattr(command, "SECTIONS", {"one": lambda bench: [{"seconds": 1.5}], "two": broken})
    assert command.run_bench(["sections=[one]", "small=true", f"output={tmp_path}"]) == 0
    assert command.run_bench(["sections=[two]", f"output={tmp_path}"]) == 1
    sections = json.loads((tmp_path / "bench.json").read_text())["sections"]
    assert sections["one"]["rows"] == [{"seconds": 1.5}]
    assert sections["one"]["small"]
    assert sections["two"]["failed"] == "RuntimeError: no room"
    assert str(tmp_path / "bench.json") in capsys.readouterr().out


@pytest.mark.parametrize("words", [["sections=[nothing]"], ["devise=cpu"], ["device=tpu"]])
def test_an_unknown_word_is_named(words):
    with pytest.raises(UserError, match=words[0].split("=")[0]):
        command.run_bench(words)
