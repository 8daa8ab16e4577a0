"""Hydra's compositions of the package's own files, remembered as long as a process of the suite lives.

Most tests compose the same few choices with other values. Which files a choice asks for, and these merged, depends on
the choice alone and takes Hydra a fifth of a second; the values on top take a tenth of that and are applied by Hydra
itself every time. Folders of tests are composed as ever, as their files change.
"""

import pickle
from collections.abc import Callable
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository

from manifoldgd.cli.compose import conf_dir

UNCHANGING = (f"file://{conf_dir()}", "pkg://hydra.conf", "structured://")


def _sources(repo: Any) -> tuple[str, ...] | None:
    """Where files are looked for; nothing where these may change."""
    found = tuple(f"{each.scheme()}://{each.path}" for each in repo.get_sources())
    return found if set(found) <= {*UNCHANGING} else None


# What is replaced, as Hydra has it.
LOAD = ConfigRepository.load_config
LIST = defaults_list._create_defaults_list
MERGE = ConfigLoaderImpl._compose_config_from_defaults_list


def remember() -> None:
    """Let Hydra remember what it reads, lists and merges of the package's files, in this process."""
    held: dict[Any, bytes] = {}  # pickled, so that every composition has objects of its own

    def once(repo: Any, what: Any, make: Callable[[], Any]) -> Any:
        sources = _sources(repo)
        if sources is None:
            return make()
        if (key := (sources, what)) not in held:
            held[key] = pickle.dumps(make())
        return pickle.loads(held[key])

    def load(repo: ConfigRepository, config_path: str) -> Any:
        return once(repo, ("file", config_path), lambda: LOAD(repo, config_path))

    def files_of(repo: Any, config_name: str | None, overrides: Any, **how: Any) -> Any:
        def choices() -> dict[str, Any]:  # those given; once listed, those of the files too, and which were used
            return {name: value for name, value in vars(overrides).items() if name != "config_overrides"}

        def listed() -> Any:
            files = LIST(repo, config_name, overrides, **how)
            return files, choices()

        files, chosen = once(repo, ("list", config_name, repr(choices()), repr(how)), listed)
        vars(overrides).update(chosen)
        return files

    def merge(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
        return once(repo, ("merged", repr(defaults)), lambda: MERGE(loader, defaults, repo))

    _replace(load, files_of, merge)


def forget() -> None:
    """Hydra as it is."""
    _replace(LOAD, LIST, MERGE)


def _replace(load: Any, files_of: Any, merge: Any) -> None:
    ConfigRepository.load_config = load
    defaults_list._create_defaults_list = files_of
    ConfigLoaderImpl._compose_config_from_defaults_list = merge
