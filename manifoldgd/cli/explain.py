"""Errors of the operating system, and keys that nobody knows, in one line that says what to do."""

from __future__ import annotations

import errno
import os

from manifoldgd.errors import nearest

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


def suggest(key: str, known: list[str]) -> str:
    """``; did you mean ...?`` or a pointer to the help."""
    if key == "trainer" or key.startswith("trainer."):
        named = SETTINGS_OF_LIGHTNING.get(key, key.replace("trainer", "machine", 1))
        return f"; what Lightning's trainer is told stands in machine.*: {named}"
    return f"; {nearest(key, known, otherwise='`manifoldgd run --help` lists the keys')}"
