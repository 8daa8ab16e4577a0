"""Numbers the guidance methods refuse, and the YAML files that hold the ones they are given."""

import inspect
from pathlib import Path

import pytest
from guidance_parts import MANIFOLD, MODE, RELEASED, SHAPE, anchors, randn
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

from manifoldgd.diffusion.protocol import Anchors
from manifoldgd.errors import UserError
from manifoldgd.guidance import ManifoldGuidance, ManifoldReleasedGuidance, ModeGuidance

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -0.1}, "scale: expected .*, got -0.1"),
        (
            {"tangent_dim": 10},
            "tangent_dim: needs to be smaller than neighbours, got tangent_dim=10, neighbours=10",
        ),
        ({"tangent_dim": 0}, "tangent_dim: expected .*, got 0"),
        (
            {"neighbours": 25},
            "neighbours: needs to be at most neighbourhood, got neighbours=25, neighbourhood=24",
        ),
        ({"estimator": "exact"}, "estimator: expected .*, got 'exact'"),
        ({"annealing": "step"}, "annealing: expected .*, got 'step'"),
        ({"kernel": "box"}, "kernel: expected .*, got 'box'"),
        ({"warmup_steps": -1}, "warmup_steps: expected .*, got -1"),
        ({"max_multiplier": 0.5}, "max_multiplier: expected .*, got 0.5"),
        ({"bandwidth": 0}, "bandwidth: expected .*, got 0"),
        ({"t_stop": 25}, r"t_stop: expected .*, got 25"),
        ({"uniform_share": 2}, r"uniform_share: expected .*, got 2"),
    ],
)
def test_bad_numbers_name_the_key(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        ManifoldGuidance(**MANIFOLD | changes)
    assert "\n" not in str(caught.value)


def test_bad_released_numbers_name_the_key():
    for changes, message in (
        ({"manifold_scale": -1}, "manifold_scale: expected"),
        ({"radius": 0}, "radius"),
        ({"cloud_size": 11}, "neighbours: needs to be at most cloud_size"),
    ):
        with pytest.raises(UserError, match=message):
            ManifoldReleasedGuidance(**RELEASED | changes)
    with pytest.raises(UserError, match=r"scale: expected"):
        ModeGuidance(**MODE | {"scale": -1})


def test_missing_neighbourhoods_are_a_programming_error():
    with pytest.raises(ValueError, match=r"neighbourhoods: expected \[B, 24, D\], got None"):
        ManifoldGuidance(**MANIFOLD).bind(Anchors(randn(2, *SHAPE), None))
    with pytest.raises(ValueError, match=r"got \(2, 23, 24\)"):
        ManifoldGuidance(**MANIFOLD).bind(anchors(2, size=23))


def built(node):
    """The guidance of a node, and what stands in it, by their constructors alone."""
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    numbers = {key: built(value) for key, value in node.items() if key != "_target_"}
    target = get_object(node["_target_"])
    if target.__module__.startswith("manifoldgd.guidance"):
        parameters = inspect.signature(target).parameters
        assert set(numbers) <= set(parameters)
        needed = {name for name, each in parameters.items() if each.default is each.empty}
        assert needed <= set(numbers)
        # Of all parts of a guidance made of others, where None is their own; and of clouds, where it is torch's.
        assert set(parameters) - needed <= {"scale", "generator"}
    return target(**numbers)


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "guidance").glob("*.yaml")))
def test_every_yaml_builds_and_holds_exactly_the_constructors_numbers(name):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", [f"guidance={name}"]), resolve=True)
        assert built(config["guidance"]).neighbourhood >= 0
