"""A configuration as one object: its values, and how Hydra came to them.

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
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from manifoldgd.cli.arguments import read_arguments
from manifoldgd.cli.explain import explain
from manifoldgd.cli.targets import allowed
from manifoldgd.errors import UserError


@dataclass(frozen=True)
class Config:
    """A composed configuration."""

    values: DictConfig  # what the YAML files and the overrides say
    hydra: DictConfig  # Hydra's own part: choices, overrides, mode, sweeper, job
    allowed: tuple[str, ...] = ()  # classes beside the registered ones that it may build, as `allow_targets` names them

    @classmethod
    def of_job(cls, values: DictConfig) -> Config:
        """The configuration of the Hydra job that is running, from what Hydra hands to its function."""
        return cls(values, HydraConfig.get(), allowed())

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
    given = read_arguments(overrides)
    try:
        whole = hydra.compose(name, list(given.overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, conf)) from error
    values: Any = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    return Config(values, whole.hydra, given.allowed or allowed())
