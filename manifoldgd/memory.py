"""Work on as many rows at a time as the memory of a device holds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from manifoldgd.errors import RunError
from manifoldgd.finite import NotFinite

# How libraries below torch say it; torch's own error says "out of memory" too.
SAID = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")


class AtOnce:
    """Rows that one kind of work takes at a time, halved for good where they are more than memory holds.

    The part that did not fit is done again. Rows must not see one another: then nothing but rounding depends on how
    many are taken, as other products may be chosen for other shapes.

    Args:
        rows: at first, >= 1.
        what: the work, the subject of what is said.
    """

    def __init__(self, rows: int, what: str) -> None:
        self.rows, self.what = rows, what

    def __call__(self, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """``work`` on parts of the rows of ``tensors``, all ``[n, ...]``; its results joined, ``[n, ...]``.

        Raises:
            RunError: a single row does not fit.
            NotFinite: from ``work``, with the rows counted over all parts.
        """
        found: list[Tensor] = []
        done = 0
        while done < len(tensors[0]) or not found:
            part = [each[done : done + self.rows] for each in tensors]
            try:
                found.append(work(*part))
            except NotFinite as error:
                error.rows = [done + row for row in error.rows]
                raise
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                done += len(part[0])
                continue
            self._halve(len(part[0]))  # here, as the error holds on to what it could not add to
        return torch.cat(found)

    def _halve(self, tried: int) -> None:
        if tried <= 1:
            raise RunError(
                f"{self.what}: a single row is more than the device's memory holds; end what else uses it, set "
                "machine.precision to a half one, or machine=cpu"
            )
        self.rows = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(
            f"manifoldgd: {self.what}: {tried} rows are more than memory holds; {self.rows} at a time from here on "
            f"(machine.batch_size={self.rows} begins so)",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def enough(what: str, remedy: str) -> Iterator[None]:
    """Where memory runs out inside, one line says so: that ``what`` is more than it holds, and the ``remedy``.

    Raises:
        RunError: it ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RunError) or not is_out_of_memory(error):
            raise
        raise RunError(f"{what} is more than memory holds; {remedy}") from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the processor had no memory left for what was asked."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in SAID)
