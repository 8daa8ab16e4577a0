"""One process at a time works on a table's folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifoldgd.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder/lock``; the system gives it up when the process ends, however it ends.

    The file says who holds it. It stays behind, as removing it would let two processes hold two files of one name.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"output: {folder} is being worked on by {holder}; wait for it, stop it, or choose another output"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
