"""Errors of Hydra, OmegaConf and the operating system in one line that says what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# How a folder is given where the name of a choice is expected.
OWN_FOLDER = {"prior": "prior=folder prior.path=", "dataset": "dataset=image_folder dataset.folder="}
# Where Hydra's users with Lightning look for a setting, and where it is.
SETTINGS_OF_LIGHTNING = {
    "trainer.max_epochs": "student.protocol.epochs",
    "trainer.devices": "machine.accelerator",
    "trainer.enable_progress_bar": "machine.progress",
}
ELSEWHERE = "choose another place with output=FOLDER or cache=FOLDER"
CONTINUES = "what is finished is kept, and the same command continues"
REMEDIES = {
    errno.ENOSPC: f"free some space; {CONTINUES}",
    errno.EDQUOT: f"free some space; {CONTINUES}",
    errno.EFBIG: f"raise the limit on file sizes; {CONTINUES}",
    errno.EROFS: ELSEWHERE,
    errno.EACCES: f"change its permissions, or {ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {ELSEWHERE}",
    errno.ENAMETOOLONG: "choose a shorter path (output, cache, names of classes)",
    errno.ENOTDIR: f"a file stands where a folder is needed: move it away, or {ELSEWHERE}",
    errno.EEXIST: f"a file stands where a folder is needed: move it away, or {ELSEWHERE}",
    errno.EISDIR: f"a folder stands where a file is needed: move it away, or {ELSEWHERE}",
    errno.ENOTEMPTY: f"a folder stands in the way: move it away, or {ELSEWHERE}",
    errno.ENOENT: f"it is not there, or was removed while it was in use; {CONTINUES}",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
}


def explain_system(error: OSError) -> str:
    """One line for an error of the operating system: path, reason, remedy."""
    if error.errno is None:  # of libraries that call their own errors so
        return " ".join(str(error).split()) or type(error).__name__
    if error.errno == errno.ENOENT and error.filename is None and _working_folder_is_gone():
        return "the working folder was removed; change to one that exists (cd)"
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{place}{error.strerror}; {REMEDIES.get(error.errno, CONTINUES)}"


def _working_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def explain(error: BaseException, conf: Path) -> str:
    """One line for any error of composition; our own errors already are one line."""
    text = str(error).strip()
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if choice := re.search(r"Could not find '([^']+)'", text):
        group, name = _split_choice(choice[1], conf)
        if group.startswith("hydra/"):
            return f"{group}: {name!r} is not installed; see the extras `tuning` and `launchers` of manifoldgd"
        hint = f"; for a folder of yours write {OWN_FOLDER[group]}{name}" if group in OWN_FOLDER else ""
        return f"{group}: no choice named {name!r}; expected one of {', '.join(_members(conf, group))}{hint}"
    if unknown:
        full = re.search(r"full_key: (\S+)", text)
        key = full.group(1) if full else unknown.group(1)
        return f"unknown key {key!r}{_suggestion(key, conf)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _split_choice(path: str, conf: Path) -> tuple[str, str]:
    """Group and name in ``group/name``; either may hold slashes, and a name that does is a path."""
    parts = path.split("/")
    named = [length for length in range(1, len(parts)) if not {".", "..", ""} & set(parts[:length])]
    lengths = [length for length in named if (conf / "/".join(parts[:length])).is_dir()]
    length = max(lengths, default=len(parts) - 1)
    return "/".join(parts[:length]), "/".join(parts[length:])


def _members(conf: Path, group: str) -> list[str]:
    return sorted(file.stem for file in (conf / group).glob("*.yaml"))


def suggest(key: str, known: list[str]) -> str:
    """``; did you mean ...?`` or a pointer to the help."""
    if key == "trainer" or key.startswith("trainer."):
        named = SETTINGS_OF_LIGHTNING.get(key, key.replace("trainer", "machine", 1))
        return f"; what Lightning's trainer is told stands in machine.*: {named}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; `manifoldgd run --help` lists the keys"


def _suggestion(key: str, conf: Path) -> str:
    groups = [str(folder.relative_to(conf)) for folder in conf.rglob("*") if folder.is_dir()]
    top = [name for name in OmegaConf.load(conf / "config.yaml") if name not in ("defaults", "hydra")]
    inside = []
    if "." in key:
        folder = conf / key.split(".")[0]
        for file in folder.glob("*.yaml"):
            inside += _keys(OmegaConf.to_container(OmegaConf.load(file)), folder.name)
    if key in inside:
        return f"; other choices of {folder.name} have it, the chosen one does not"
    same = [each for each in inside if each.endswith(f".{key.rpartition('.')[2]}")]  # one level deeper or higher
    return suggest(key, same or [*groups, *map(str, top), *inside])


def _keys(node: Any, path: str) -> list[str]:
    """Keys of a node and of the nodes in it, as they are written on a command line."""
    own = {f"{path}.{name}": value for name, value in node.items() if not str(name).startswith(("_", "def"))}
    return [*own, *(key for name, value in own.items() if isinstance(value, dict) for key in _keys(value, name))]
