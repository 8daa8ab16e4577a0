"""Configurations without Hydra's global state: the same as the command line's, from anywhere, as often as wanted."""

import sys

import composition
import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from manifoldgd.cli.compose import Config, compose, composing, conf_dir
from manifoldgd.errors import UserError


def test_a_configuration_knows_its_values_and_how_it_came_about():
    config = compose(["dataset=digits", "guidance=mode_x0", "ipc=3", "allow_targets=[mine.Guidance]"])
    assert config.values.ipc == 3
    assert (config.choice("guidance"), config.choice("student")) == ("mode_x0", "convnet3")
    assert config.overrides == ["dataset=digits", "guidance=mode_x0", "ipc=3"]
    assert config.allowed == ("mine.Guidance",)
    assert not config.in_sweep
    assert "hydra" not in config.values
    assert OmegaConf.create(config.text("all")).keys() == {"hydra", *config.values}
    assert OmegaConf.create(config.text("hydra")).keys() == {"hydra"}


def test_composing_many_is_composing_each():
    with composing() as composed:
        for overrides in (["ipc=1"], ["guidance=none"], []):
            assert composed(overrides).values == compose(overrides).values
    assert compose(name="scores").values.keys() >= {"full_data", "weight"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=imagenette", "ipc=3", "experiment=smoke", "student/protocol=soft_small"],
        ["guidance=matching", "sampler=ddim", "~logger", "clusterer/space=pooled", "student.protocol.epochs=7"],
    ],
)
def test_what_the_suite_remembers_is_what_hydra_composes(overrides):
    """See `support/composition.py`: the second composition is remembered, the third is Hydra's."""
    remembered = [compose([*overrides, f"seed={seed}"]) for seed in (0, 1)]
    composition.forget()
    try:
        fresh = compose([*overrides, "seed=1"])
    finally:
        composition.remember()
    assert remembered[1].text("all") == fresh.text("all")
    assert remembered[0].values.seed == 0
    OmegaConf.set_struct(remembered[0].values, False)
    remembered[0].values.dataset.clear()
    assert compose([*overrides, "seed=1"]).text("all") == fresh.text("all")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["guidance.scal=1"], ("guidance.scal", "did you mean 'guidance.scale'")),
        (["guidance=nosuch"], ("guidance", "'nosuch'", "mode_x0")),
        (["ipc"], ("ipc",)),
        (["allow_targets=[7]"], ("allow_targets",)),
    ],
)
def test_what_cannot_be_composed_is_said_in_one_line(overrides, parts):
    with pytest.raises(UserError) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not GlobalHydra.instance().is_initialized()


def test_inside_a_job_of_hydra_its_state_stays_as_it_was(monkeypatch):
    seen = []

    def job(values):
        before = GlobalHydra.instance().hydra
        own = Config.of_job(values)
        other = compose(["guidance=none", "ipc=4"])
        assert GlobalHydra.instance().hydra is before
        assert HydraConfig.get().overrides.task == ["guidance=mode", "ipc=2"]
        seen.append((own, other))

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["manifoldgd", "guidance=mode", "ipc=2"])
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    ((own, other),) = seen
    assert (own.choice("guidance"), own.values.ipc, own.overrides) == ("mode", 2, ["guidance=mode", "ipc=2"])
    assert (other.choice("guidance"), other.values.ipc) == ("none", 4)
    # What the job was handed is what composing the same words gives.
    assert own.values == compose(["guidance=mode", "ipc=2"]).values
