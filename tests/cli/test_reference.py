"""The reference of the configuration says what the files say, under the names that a command line takes."""

from importlib.util import find_spec
from itertools import zip_longest

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.reference import Key, read_reference

MODE = """\
# Pulls towards a point.
# In two lines.
_target_: package.Mode
scale: 0.1  # strength, >= 0; its source
# Of the two the first did better.
kernel: rbf  # rbf | laplace
colour: "#123"  # text with a hash in it
bare: null
long: >-
  # no comment: this
  is the text
part:
  _target_: package.Part
  size: [1, 2]  # of the part
labels:  # folder: label
  cat: 281  # tabby
  dog: 207
other: {_target_: package.Other, count: 5}  # described as one
"""


@pytest.fixture
def conf(tmp_path):
    def write(**files):
        for name, text in files.items():
            file = tmp_path / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return {(each.group, each.name): each for each in read_reference(tmp_path)}

    return write


def test_keys_bear_the_comments_beside_and_above_them(conf):
    member = conf(guidance__mode=MODE)["guidance", "mode"]
    assert (member.text, member.target) == ("Pulls towards a point. In two lines.", "package.Mode")
    assert {key.name.removeprefix("guidance."): (key.default, key.text) for key in member.keys} == {
        "scale": ("0.1", "strength, >= 0; its source"),
        "kernel": ("rbf", "Of the two the first did better. rbf | laplace"),
        "colour": ("#123", "text with a hash in it"),
        "bare": ("null", ""),
        "long": ("# no comment: this is the text", ""),
        "part.size": ("[1, 2]", "of the part"),
        "labels": ("2 entries", "folder: label"),
        "other.count": ("5", "described as one"),
    }


def test_what_lies_in_no_group_has_no_prefix(conf):
    found = conf(
        config="# All.\ndefaults:\n  - guidance: mode\n  - _self_\n\nipc: 10  # images\nhydra:\n  run: {dir: .}\n",
        experiment__quick="# @package _global_\n# Small.\nstudent:\n  epochs: 1  # passes\n",
    )
    assert found["", "config"].keys == (Key("ipc", "10", "images"),)
    assert found["experiment", "quick"].text == "Small."
    assert found["experiment", "quick"].keys == (Key("student.epochs", "1", "passes"),)


def test_members_say_what_they_build_on_and_where_a_group_is_put(conf):
    found = conf(
        guidance__mode=MODE,
        guidance__more="defaults:\n  - mode\n  - _self_\n\nscale: 0.2\n",
        student__protocol__soft="defaults:\n  - /student/teacher@teacher: small\n  - _self_\n\nepochs: 3\n",
        student__teacher__small="width: 8  # filters\n",
    )
    assert found["guidance", "more"].builds_on == ("mode",)
    inside = conf(guidance__shared__any="rate: 1  # a step\n", guidance__new="defaults:\n  - shared/any@_here_\n")
    assert inside["guidance", "new"].builds_on == ("shared/any",)
    assert inside["guidance/shared", "any"].keys == (Key("guidance.rate", "1", "a step"),)
    assert found["student/protocol", "soft"].keys == (Key("student.protocol.epochs", "3", ""),)
    assert found["student/teacher", "small"].keys == (Key("student.protocol.teacher.width", "8", "filters"),)


PLACE = {
    "student/teacher": "student/teacher@student.protocol.teacher",
    "student/augmentation": "student/augmentation@student.protocol.augmentation",
    "guidance/coordinates": "guidance/coordinates@guidance.then.coordinates",
    "guidance/residual": "guidance/residual@guidance.then.residual",
}
BUILT_ON = {"dataset/images"}  # no choices: members of the group above take all of their keys
OPTIONS = [each for each in read_reference(conf_dir()) if each.group.startswith("guidance/")]
GROUPS = {}
for each in read_reference(conf_dir()):
    if (
        each.group
        and each not in OPTIONS
        and (each.name != "tuning_optuna" or find_spec("hydra_plugins.hydra_optuna_sweeper"))
    ):
        GROUPS.setdefault(each.group, []).append(each)


@pytest.mark.parametrize(
    "chosen", list(zip_longest(*GROUPS.values())), ids=lambda each: "-".join(m.name for m in each if m)
)
def test_hydra_knows_every_key_of_the_reference(chosen):
    """One member of each group at a time: all keys are those of the composed configuration."""
    members = [each for each in chosen if each]
    teacher = any(each.group == "student/teacher" for each in members)
    if any(each.group in BUILT_ON for each in members):  # the choice that takes the keys of all of them
        members = [each for each in members if each.group != "dataset"]
        overrides = ["dataset=imagenet"]
    else:
        overrides = []
    overrides += [f"{PLACE.get(each.group, each.group)}={each.name}" for each in members if each.group not in BUILT_ON]
    if teacher:  # it has a place under soft labels only
        members = [each for each in members if each.group != "student/protocol"]
        overrides = ["student/protocol=soft_small", *(word for word in overrides if "protocol=" not in word)]
    if "clusterer=random" in overrides:  # it compares nothing, so it has no space
        members = [each for each in members if each.group != "clusterer/space"]
        overrides = [word for word in overrides if not word.startswith("clusterer/space=")]
    check_keys(overrides, members)


def check_keys(overrides, members):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides)
    for key in (key.name for each in members for key in each.keys):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        assert name in list(node), key


@pytest.mark.parametrize("option", OPTIONS, ids=lambda each: f"{each.group}={each.name}")
def test_hydra_knows_every_key_of_the_options_of_set_guidances(option):
    check_keys(["guidance=regression", f"{PLACE[option.group]}={option.name}"], [option])


def test_hydra_knows_every_key_of_the_commands():
    (config,) = (each for each in read_reference(conf_dir()) if (each.group, each.name) == ("", "config"))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("config")
    groups = {str(name) for name in GROUPS if "/" not in name}
    assert {key.name.split(".")[0] for key in config.keys} == {str(name) for name in composed} - groups
