"""A configuration as one object: its values, how Hydra came to them, and why it could not.

This is where Hydra's global state begins and ends. A running job reads it once (:meth:`Config.of_job`);
:func:`compose` asks Hydra for a configuration and leaves its state as it was, so that it can be called
anywhere: beside Hydra, inside a job of Hydra's, and as often as wanted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from manifoldgd.cli.arguments import parse, read_arguments, with_own_priors
from manifoldgd.cli.explain import suggest
from manifoldgd.cli.reference import read_reference
from manifoldgd.cli.targets import allowed
from manifoldgd.errors import UserError

# How a folder is given where the name of a choice is expected.
OWN_FOLDER = {"prior": "prior=folder prior.path=", "dataset": "dataset=image_folder dataset.folder="}


@dataclass(frozen=True)
class Config:
    """A composed configuration."""

    values: DictConfig  # what the YAML files and the overrides say
    hydra: DictConfig  # Hydra's own part: choices, overrides, mode, sweeper, job
    allowed: tuple[str, ...] = ()  # classes beside the registered ones that it may build, as `allow_targets` names them

    @classmethod
    def of_job(cls, values: DictConfig) -> Config:
        """The configuration of the Hydra job that is running, from what Hydra hands to its function."""
        hydra_part: Any = HydraConfig.get()
        return cls(values, hydra_part, allowed())

    def choice(self, group: str) -> str:
        """The member of a group that was chosen, by the name of its file."""
        return self.hydra.runtime.choices[group]

    @property
    def overrides(self) -> list[str]:
        """What was given on top of the files, ``key=value`` each."""
        return list(self.hydra.overrides.task)

    @property
    def in_sweep(self) -> bool:
        """Whether it is of one job of several."""
        return self.hydra.mode == RunMode.MULTIRUN

    def text(self, part: str) -> str:
        """As ``--cfg`` shows it: ``job`` the values, ``hydra`` Hydra's own part, ``all`` both."""
        values = OmegaConf.to_yaml(self.values) if part != "hydra" else ""
        return values if part == "job" else OmegaConf.to_yaml({"hydra": self.hydra}) + values


def conf_dir() -> Path:
    """The configuration folder: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml in {package} or beside it: the installation is incomplete")


def compose(overrides: Sequence[str] = (), *, name: str = "config", conf: Path | None = None) -> Config:
    """What the command line makes of ``overrides``.

    Args:
        overrides: as typed there, ``["dataset=digits", "ipc=10"]``; ``allow_targets=[my_package.MyGuidance]`` too.
        name: file of the configuration folder to start from, without its ending.
        conf: configuration folder; ``None`` for the package's own.

    Raises:
        UserError: a key or a choice is unknown, or ``allow_targets`` holds no dotted names.
    """
    with composing(conf) as composed:
        return composed(overrides, name)


@contextmanager
def composing(conf: Path | None = None) -> Iterator[Callable[..., Config]]:
    """Yield :func:`compose` without its start-up time, for many configurations of one folder."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf or conf_dir()), version_base="1.3"):
            yield functools.partial(_compose, conf or conf_dir())
    finally:
        GlobalHydra.instance().hydra = running


def _compose(conf: Path, overrides: Sequence[str] = (), name: str = "config") -> Config:
    given = read_arguments(with_own_priors(overrides, conf))
    try:
        whole = hydra.compose(name, given.searching, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explained(error, conf, given.searching)) from error
    values: Any = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    return Config(values, whole.hydra, given.allowed or allowed())


def explain(error: HydraException | OmegaConfBaseException, overrides: Sequence[str] = ()) -> str:
    """One line for an error of Hydra's that ended the job of these overrides."""
    with composing():
        return _explained(error, conf_dir(), overrides)


def _explained(error: Exception, conf: Path, overrides: Sequence[str]) -> str:
    # OmegaConf says which key it misses. Hydra says in words only which choice, so the choices are looked through.
    given = parse(overrides)
    if key := _missed(error):
        key = next((each.key_or_group for each in given if each.key_or_group.startswith(f"{key}.")), key)
        return f"unknown key {key!r}{_suggestion(key, conf)}"
    loader = GlobalHydra.instance().config_loader()
    for each in given:
        group, name = each.key_or_group, each.value()
        search = [word for word in overrides if word.startswith("hydra.searchpath=")]
        known = loader.get_group_options(group, ObjectType.CONFIG, "config", search)
        if not isinstance(name, str) or name in known:
            continue
        if group.startswith("hydra/"):
            return f"{group}: {name!r} is not installed; see the extras `tuning` and `launchers` of manifoldgd"
        if known:
            hint = f"; for a folder of yours write {OWN_FOLDER[group]}{name}" if group in OWN_FOLDER else ""
            return f"{group}: no choice named {name!r}; expected one of {', '.join(known)}{hint}"
    return " ".join(str(error).split())


def _missed(error: BaseException | None) -> str | None:
    """The key that an error is about, or one that caused it, where it is missing."""
    while error is not None:
        if isinstance(error, ConfigAttributeError | ConfigKeyError) and error.full_key:
            return str(error.full_key)
        error = error.__cause__
    return None


# What moved, and where it is.
MOVED = {"clusterer.pool": "clusterer/space=pooled clusterer.space.pool=..."}


def _suggestion(key: str, conf: Path) -> str:
    if key in MOVED:
        return f"; set {MOVED[key]}"
    top, dot, _ = key.partition(".")
    reference = read_reference(conf)
    inside = [each.name for file in reference if dot and file.group.split("/")[0] == top for each in file.keys]
    if key in inside:
        return f"; other choices of {top} have it, the chosen one does not"
    same = [each for each in inside if each.endswith(f".{key.rpartition('.')[2]}")]  # one level deeper or higher
    plain = [each.name for file in reference if (file.group, file.name) == ("", "config") for each in file.keys]
    return suggest(key, same or [*sorted({file.group for file in reference} - {""}), *plain, *inside])
