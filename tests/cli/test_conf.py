"""Every value has one owner: the YAML files and the constructors name the same keys, and everything composes."""

import functools
import itertools
import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from manifoldgd.cli.components import build, checked_node
from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.reference import read_reference
from manifoldgd.cli.setup import DIFFUSION, Setup
from manifoldgd.cli.used import EXPORT_FORMATS, PLAIN_KEYS, SOURCES, USED_KEYS
from manifoldgd.errors import UserError
from manifoldgd.export import FORMATS
from manifoldgd.prototypes import SELECTIONS
from manifoldgd.ranges import Range, annotations_of, parameters_of
from manifoldgd.store.keys import FETCHING

CONF = conf_dir()
GROUPS = ("clusterer", "dataset", "embedding", "guidance", "logger", "machine", "prior", "recipe", "sampler", "student")
MEMBERS = {group: sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in GROUPS}
TEACHERS = sorted(file.stem for file in (CONF / "student" / "teacher").glob("*.yaml"))
AUGMENTATIONS = sorted(file.stem for file in (CONF / "student" / "augmentation").glob("*.yaml"))
PROTOCOLS = sorted(file.stem for file in (CONF / "student" / "protocol").glob("*.yaml"))
FILES = sorted(CONF.rglob("*.yaml"))


@pytest.fixture(autouse=True, scope="module")
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@functools.cache
def composed(name, overrides):
    config = hydra_compose(name, list(overrides))
    OmegaConf.set_readonly(config, True)  # several tests look at it
    return config


def compose(name, overrides=()):
    """As Hydra composes it, once: that is what most of this file's time would go to."""
    return composed(name, tuple(overrides))


# Each dataset and each student once, with members of other groups: what one chooses does not depend on the rest.
# The prior is the dataset's own, so that this can be seen.
TOGETHER = [group for group in GROUPS if group != "prior"]
MOST = max(map(len, MEMBERS.values()))
ROWS = list(zip(*(itertools.islice(itertools.cycle(MEMBERS[group]), MOST) for group in TOGETHER), strict=True))


def row(members):
    return compose("config", [f"{group}={member}" for group, member in zip(TOGETHER, members, strict=True)])


def chosen(group, member):
    """A configuration with this member."""
    if group not in TOGETHER:
        return compose("config", [f"{group}={member}"])
    return row(next(each for each in ROWS if each[TOGETHER.index(group)] == member))


def nodes(config):
    """All nodes with a target, however deep."""
    if isinstance(config, DictConfig):
        if "_target_" in config:
            yield config
        keys = [key for key in config if not OmegaConf.is_missing(config, key)]
        for key in keys:
            yield from nodes(config._get_node(key) if OmegaConf.is_interpolation(config, key) else config[key])
    elif isinstance(config, ListConfig):
        for each in config:
            yield from nodes(each)


def same_keys(node):
    target = get_object(node["_target_"])
    signature = parameters_of(target)
    required = {name for name, one in signature.items() if one.default is one.empty}  # a default: engineering
    optional = {name for name, one in signature.items() if one.default is None}  # or what null switches off
    named = {str(key) for key in node} - {"_target_"}
    assert named - set(FETCHING) - optional == required - set(FETCHING), node["_target_"]
    assert named <= set(signature), node["_target_"]


@pytest.mark.parametrize(("group", "member"), [(group, member) for group in GROUPS for member in MEMBERS[group]])
def test_members_and_constructors_name_the_same_keys(group, member):
    found = list(nodes(chosen(group, member)[group]))
    assert found
    for node in found:
        same_keys(node)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_and_constructors_name_the_same_keys(protocol):
    found = list(nodes(compose("config", [f"student/protocol={protocol}"]).student))
    # Student, protocol, augmentation; soft labels come from a teacher with an augmentation of its own.
    assert len(found) == (5 if protocol.startswith("soft") else 3)
    for node in found:
        same_keys(node)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_any_teacher_can_be_chosen_for_soft_labels(teacher):
    words = ["student/protocol=soft_small", f"student/teacher@student.protocol.teacher={teacher}"]
    config = compose("config", words)
    assert config.student.protocol.teacher == compose("scores")[teacher]
    checked_node(config, "student.protocol.teacher")
    words.append("student/augmentation@student.protocol.teacher.augmentation=dsa")
    dsa = OmegaConf.load(CONF / "student" / "augmentation" / "dsa.yaml")
    assert compose("config", words).student.protocol.teacher.augmentation == dsa


def test_components_live_in_groups_with_two_members():
    assert all(len(members) >= 2 for members in MEMBERS.values())
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, "experiment"}


def test_commands_know_every_key_of_the_configuration():
    keys = {str(key) for key in compose("config")}
    assert keys == set(PLAIN_KEYS) | set(GROUPS)
    assert set().union(*USED_KEYS.values()) == keys | {"experiment"}


def test_plain_keys_name_what_there_is():
    assert (DIFFUSION, *SELECTIONS) == SOURCES
    assert tuple(FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_values_that_are_numbers_are_explained(file):
    """A scientific number without a comment is a number without a unit and a source."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if (
            file.parts[-2] in ("guidance", "clusterer", "space", "sampler")
            and value.strip()
            and key.strip()[0] not in "#_-"
        ):
            assert "#" in value, f"{file.name}: {line}"


REFERENCE = read_reference(CONF)
CHOSEN = {
    "student/teacher": "student/protocol=soft_small student/teacher@student.protocol.teacher={}",
    "student/augmentation": "student/augmentation@student.protocol.augmentation={}",
}


def stated(group):
    """``(component, key, value, comment)`` of what each file of a group states, with the file."""
    for member in REFERENCE:
        if member.group == group:
            words = CHOSEN.get(group, f"{group}={{}}").format(member.name).split()
            config = chosen(group, member.name) if group in GROUPS else compose("config", words)
            for key in member.keys:
                above, _, name = key.name.rpartition(".")
                if key.default not in ("null", "???") and "${" not in key.default:
                    component = OmegaConf.select(config, above).get("_target_", above)
                    yield member.name, (component, name, key.default, key.text)


@pytest.mark.parametrize(
    "group",
    ["clusterer", "clusterer/space", "guidance", "machine", "prior", "recipe", "sampler", "student", "student/protocol",
     "student/augmentation", "student/teacher"],
)  # fmt: skip
def test_no_number_stands_twice(group):
    """What two members share has one owner, on which others build; with another source it is another fact."""
    owners = {}
    for file, fact in stated(group):
        owner = owners.setdefault(fact, file)
        assert owner == file, f"{group}: {fact} stands in {owner}.yaml and {file}.yaml"


@pytest.mark.parametrize("member", [each for each in REFERENCE if each.group.split("/")[0] != "dataset"],
                         ids=lambda each: f"{each.group}-{each.name}")  # fmt: skip
def test_every_key_says_what_it_means(member):
    """More than a range; a dataset's keys are those of its files."""
    for key in member.keys:
        assert len(re.sub(r"(in )?[\[(][^\])]*[\])];?", "", key.text).strip()) > 3, (key.name, key.text)


STRONG = [name for name in MEMBERS["guidance"] if name != "none"]


def scales(guidance):
    parts = getattr(guidance, "parts", ())
    own = [guidance.scale] if hasattr(guidance, "scale") and not parts else []
    return own + [each for part in parts for each in scales(part)]


@pytest.mark.parametrize("guidance", STRONG)
def test_one_key_is_the_strength_of_every_guidance(guidance):
    config = compose("config", [f"guidance={guidance}", "guidance.scale=0.3"])
    assert set(scales(build(config, "guidance"))) == {0.3}
    default = build(chosen("guidance", guidance), "guidance")
    assert 0.3 not in scales(default)
    inner = [part for part in ("first", "method") if part in config.guidance]
    if inner and guidance != "mode_then_manifold":  # whose parts may differ
        old = compose("config", [f"guidance={guidance}", f"guidance.{inner[0]}.scale=0.3"])
        assert scales(build(old, "guidance")) == scales(build(config, "guidance"))


def test_where_both_parts_have_a_strength_each_may_be_set_alone():
    given = ["guidance=mode_then_manifold", "guidance.first.scale=0.2"]
    assert scales(build(compose("config", given), "guidance")) == [0.2, 0.1]
    assert scales(build(compose("config", [*given, "guidance.scale=0.4"]), "guidance")) == [0.4, 0.4]
    with pytest.raises(UserError, match=r"guidance\.scale: expected a number in \[0, 1000\] or null, got -1"):
        build(compose("config", ["guidance=matching", "guidance.scale=-1"]), "guidance")


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("clusterer.space=pooled", "choose it with clusterer/space=pooled"),
        ("student.protocol=hard_large", "choose it with student/protocol=hard_large"),
    ],
)
def test_a_choice_given_with_dots_is_answered(given, answer):
    with pytest.raises(UserError, match=answer):
        build(compose("config", [given]), given.partition(".")[0])


@pytest.mark.parametrize("members", ROWS, ids=lambda members: members[TOGETHER.index("dataset")])
def test_datasets_and_students_compose(members):
    config, dataset = row(members), members[TOGETHER.index("dataset")]
    assert "train_per_class" in config.dataset
    small = dataset in ("cifar10", "cifar100", "npz", "svhn", "tiny_imagenet")
    own = dataset if dataset in ("digits", "fashion_mnist") else "folder" if small else "dit_xl_2_256"
    prior = OmegaConf.load(CONF / "prior" / f"{own}.yaml")
    assert OmegaConf.to_container(config.prior)["path"] == OmegaConf.to_container(prior)["path"]
    assert config.student.protocol.name == ("hard_large" if own == "dit_xl_2_256" else "hard_small")


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    # Of datasets those that choose other things: the rest are lists of classes, or other layouts of the same.
    list(
        itertools.product(
            ("cifar10", "digits", "fashion_mnist", "image_folder", "imagenet_a"),
            *(MEMBERS[group] for group in ("guidance", "clusterer", "sampler")),
        )
    ),
)
def test_every_combination_composes(choices):
    groups = ("dataset", "guidance", "clusterer", "sampler")
    words = [f"{group}={choice}" for group, choice in zip(groups, choices, strict=True)]
    for student in MEMBERS["student"]:
        config = compose("config", [*words, f"student={student}", "dataset.train_per_class=3"])
        assert len(list(nodes(config))) >= 9


def test_smoke_composes_and_choices_on_the_command_line_win():
    config = compose("config", ["experiment=smoke"])
    assert config.dataset._target_ == "manifoldgd.data.digits"
    assert config.logger._target_ == "manifoldgd.tracking.NoTracker"
    assert (config.ipc, config.sampler.steps, config.student.protocol.epochs) == (2, 10, 10)
    assert compose("config", ["experiment=smoke", "ipc=3"]).ipc == 3


@pytest.mark.parametrize("guidance", MEMBERS["guidance"])
def test_smoke_works_with_every_guidance(guidance):
    config = compose("config", ["experiment=smoke", f"guidance={guidance}"])
    assert build(config, "guidance").neighbourhood >= 0


def has_optuna():
    return find_spec("hydra_plugins") is not None and find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


def test_experiments_set_known_keys_only():
    for file in (CONF / "experiment").glob("*.yaml"):
        if "optuna" in file.stem and not has_optuna():
            continue  # an extra
        before, after = compose("config"), compose("config", [f"experiment={file.stem}"])
        assert set(before) == set(after)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guidance.scale=strong", r"guidance\.scale: expected a number in \[0, 1000\], got 'strong'"),
        ("sampler.steps=1.5", r"sampler\.steps: expected a whole number in \[1, 4000\], got 1\.5"),
        ("sampler.steps=true", r"sampler\.steps: expected a whole number in \[1, 4000\], got True"),
        ("machine.threads=many", r"machine\.threads: expected a whole number in \[1, 1024\] or null"),
        ("machine.progress=1", r"machine\.progress: expected true or false, got 1"),
        ("+guidance.scael=1", r"unknown key 'guidance\.scael'; did you mean 'scale'\?"),
        ("~guidance.kernel", r"guidance\.kernel: expected a value, got none; set guidance\.kernel=\.\.\."),
        ("student.protocol.momentum=[1]", r"student\.protocol\.momentum: expected a number in \[0, 1\), got \[1\]"),
        ("student.protocol.augmentation.mode=3", r"student\.protocol\.augmentation\.mode: expected "),
    ],
)
def test_types_and_keys_are_checked_against_the_constructor(override, message):
    config = compose("config", [override])
    group = override.lstrip("+~").split(".")[0]
    with pytest.raises(UserError, match=message):
        checked_node(config, group)


def test_missing_values_are_named():
    config = compose("config", ["dataset=image_folder"])
    with pytest.raises(UserError, match=r"dataset\.folder: needs a value and has none; set dataset\.folder="):
        checked_node(config, "dataset")


def test_wheel_and_checkout_find_the_configuration():
    assert (Path(CONF) / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["guidance=mode_x0"], "mode_x0"),
        (["guidance=manifold", "guidance.estimator=clean"], "manifold (clean)"),
        (["guidance=manifold_x0", "guidance.method.estimator=clean"], "manifold_x0 (clean)"),
        (["guidance=manifold_released"], "manifold_released"),
        (["guidance=mode", "start.strength=0.7"], "mode (from prototypes at 0.7)"),
        (["guidance=manifold", "overgeneration.replicas=4"], "manifold (posterior, 1 of 4 kept)"),
    ],
)
def test_methods_are_named_by_what_differs(overrides, name):
    config = compose("config", overrides)
    parts = {group: build(config, group) for group in ("start", "overgeneration")}
    given = SimpleNamespace(config=config, guidance_name=overrides[0].removeprefix("guidance="), **parts)
    assert Setup.method.fget(given) == name


def test_every_protocol_of_hard_labels_can_be_scored():
    full_data = compose("scores").full_data
    hard = [name for name in PROTOCOLS if name.startswith("hard_")]
    assert {compose("config", [f"student/protocol={name}"]).student.protocol.name for name in hard} == set(full_data)


def first_range(hint):
    """The outermost range in an annotation, as text."""
    own = [str(each) for each in get_args(hint) if isinstance(each, Range)]
    return next(iter([*own, *filter(None, map(first_range, get_args(hint)))]), None)


def check_comments(text, node):
    """Every number has a range, and the comment beside it says which."""
    stated = {name: first_range(hint) for name, hint in annotations_of(get_object(node["_target_"])).items()}
    for key in set(node) - {"_target_"}:
        lines = [line for line in text.splitlines() if line.strip().startswith(f"{key}: ")]
        assert not lines or any((stated[key] or "") in line.partition("#")[2] for line in lines), (key, stated[key])
        number = (
            not OmegaConf.is_missing(node, key)
            and isinstance(node[key], (int, float))
            and not isinstance(node[key], bool)
        )
        assert stated[key] or not number, f"{node['_target_']}: {key} has no range"


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "dataset"])  # a dataset's depend on its files
def test_comments_state_the_ranges_that_are_checked(group):
    for member in MEMBERS[group]:
        text = (CONF / group / f"{member}.yaml").read_text()
        for node in nodes(chosen(group, member)[group]):
            check_comments(text, node)


def test_comments_of_protocols_and_teachers_state_them_too():
    for name in PROTOCOLS:
        text = (CONF / "student" / "protocol" / f"{name}.yaml").read_text()
        for node in nodes(compose("config", [f"student/protocol={name}"]).student.protocol):
            check_comments(text, node)
    for group, names in (("teacher", TEACHERS), ("augmentation", AUGMENTATIONS)):
        for name in names:
            config = compose("config", CHOSEN[f"student/{group}"].format(name).split())
            for node in nodes(config.student.protocol[group]):
                check_comments((CONF / "student" / group / f"{name}.yaml").read_text(), node)


def test_comments_of_plain_keys_state_them_too():
    text = (CONF / "config.yaml").read_text()
    for key in ("ipc", "seed"):
        assert f"# {first_range(PLAIN_KEYS[key])}" in next(line for line in text.splitlines() if line.startswith(key))
