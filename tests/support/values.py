"""Every key of the configuration, and what becomes of odd values there."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.components import TARGET, build, checked_node
from manifoldgd.cli.compose import Config, composing, conf_dir
from manifoldgd.cli.setup import recipe_of
from manifoldgd.cli.used import PLAIN_KEYS, check_keys
from manifoldgd.errors import UserError

ODD = {
    "-1": -1,
    "0": 0,
    "nan": math.nan,
    "inf": math.inf,
    "1e30": 1e30,
    "H": 99999999999999999999,
    "abc": "abc",
    "null": None,
    "[]": [],
}
GROUPS = ("clusterer", "dataset", "embedding", "guidance", "logger", "machine", "prior", "recipe", "sampler", "student")
UNBUILT = ("dataset", "embedding", "prior")  # checked, not read: that takes data and weights
NEEDED = {
    "npz": ["dataset.file=somewhere", "dataset.image_size=8"],
    **dict.fromkeys(
        ("image_folder", "parquet", "webdataset", "cifar10", "cifar100", "svhn", "tiny_imagenet"),
        ("dataset.folder=somewhere",),
    ),
}


def members(group: str) -> list[str]:
    """Choices of a group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def choices() -> Iterator[tuple[list[str], list[str]]]:
    """Overrides that between them choose each member of each group, each with the parts that they fill.

    Composing takes longer than all that is tried on a configuration, so one chooses a member of every group.
    """
    spaces = [("clusterer.space", [f"clusterer/space={name}"]) for name in members("clusterer/space")]
    nearest = "clusterer.representative={_target_: manifoldgd.prototypes.MeanOfNearest, count: 5}"
    protocols = [("student.protocol", [f"student/protocol={name}"]) for name in members("student/protocol")]
    teachers = [
        (
            "student.protocol.teacher",
            ["student/protocol=soft_small", f"student/teacher@student.protocol.teacher={name}"],
        )
        for name in members("student/teacher")
    ]
    augmentations = [
        ("student.protocol.augmentation", [f"student/augmentation@student.protocol.augmentation={name}"])
        for name in members("student/augmentation")
    ]
    needed = {f"dataset={name}": overrides for name, overrides in NEEDED.items()} | {"prior=folder": ["prior.path=x"]}
    columns = {
        group: [(group, [one, *needed.get(one, [])]) for one in (f"{group}={name}" for name in members(group))]
        for group in GROUPS
    }
    columns["clusterer"] += [*spaces, ("clusterer.representative", [nearest])]
    columns["student"] += [*protocols, *teachers, *augmentations]
    for row in itertools.zip_longest(*columns.values()):
        chosen = [each for each in row if each]
        yield [path for path, _ in chosen], [override for _, overrides in chosen for override in overrides]
    yield list({"start": None, "overgeneration": None, "reading": None} | PLAIN_KEYS), []


def leaves(config: DictConfig, path: str) -> Iterator[str]:
    """Keys of values at and below ``path``; a list or a mapping of values counts as one."""
    node = OmegaConf.select(config, path)
    if not isinstance(node, DictConfig):
        yield path
        return
    if TARGET not in node and path not in GROUPS:
        yield path
        return
    for key in node:
        if OmegaConf.is_interpolation(node, key):
            yield f"{path}.{key}"
        elif key != TARGET:
            yield from leaves(config, f"{path}.{key}")


def outcome(config: Config, key: str, value: object) -> str:
    """``accepted``, ``answered``, ``unnamed`` (answered without naming the key) or the name of an exception."""
    before = OmegaConf.select(config.values, key)
    OmegaConf.update(config.values, key, value, merge=False)
    try:
        return _answer(config, key)
    finally:
        OmegaConf.update(config.values, key, before, merge=False)


def _answer(config: Config, key: str) -> str:
    changed = config.values
    group = key.partition(".")[0]
    try:
        if group == "recipe":
            recipe_of(changed)
        elif group in UNBUILT:
            part = group if TARGET in changed[group] else key.rpartition(".")[0]  # one of several embeddings
            checked_node(changed, part)
        elif group in PLAIN_KEYS and group not in ("start", "overgeneration", "reading"):
            check_keys("run", config)
        else:
            build(changed, group)
    except UserError as error:
        return "answered" if key in str(error) and "\n" not in str(error) else f"unnamed: {error}"
    except Exception as error:  # what a user would see as a traceback
        return f"{type(error).__name__}: {error}"
    return "accepted"


def walk() -> Iterator[tuple[str, str, str]]:
    """Key, odd value and outcome, for all of them."""
    seen = Counter()
    with composing() as compose:
        for paths, overrides in choices():
            config = compose(overrides)
            values = config.values
            OmegaConf.set_struct(values, False)
            for key in (key for path in paths for key in leaves(values, path)):
                target = str(OmegaConf.select(values, key.rpartition(".")[0] + "." + TARGET)) if "." in key else ""
                seen[key, target] += 1
                if seen[key, target] > 1:
                    continue
                for name, value in (ODD | _inside(OmegaConf.select(values, key))).items():
                    yield key, name, outcome(config, key, value)


def _inside(held: object) -> dict[str, object]:
    """The odd values as the only entry of a list or a mapping, where a key holds one."""
    if OmegaConf.is_list(held):
        return {f"[{name}]": [value] for name, value in ODD.items()}
    if OmegaConf.is_dict(held) and len(held):
        return {f"{{{name}}}": {next(iter(held)): value} for name, value in ODD.items()}
    return {}
