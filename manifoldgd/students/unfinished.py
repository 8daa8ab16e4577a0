"""The state of a training that was stopped, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifoldgd.archives import load_archive

OF = "of"


@dataclass(frozen=True)
class Unfinished:
    """Where the state of one training lies.

    Attributes:
        file: A checkpoint of Lightning's, if it is there.
        of: What is trained on what, as a hash or in words; the state of something else is not continued.
    """

    file: Path
    of: str

    def describe(self, checkpoint: dict[str, Any]) -> None:
        """Note in a state what it is of."""
        checkpoint[OF] = str(self.of)  # a key is more than its letters, and a state holds plain data

    def is_there(self) -> bool:
        """Whether there is a state to go on from: one that can be read, of this training."""
        try:
            state = load_archive(self.file, mmap=True)
        except Exception:  # whatever a damaged file makes of the reader: the training then begins anew
            return False
        return isinstance(state, dict) and state.get(OF) == self.of

    def remove(self) -> None:
        """The training is done, and what came of it kept."""
        self.file.unlink(missing_ok=True)
