"""Run the predict loop over what is still missing, and hand on every image as soon as its batch is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from manifoldgd.diffusion.protocol import Together, batch_rows
from manifoldgd.distill.items import WorkItem
from manifoldgd.distill.module import DistillModule, Synthesised

SaveBatch = Callable[[Synthesised], None]
SAVES_LEFT = 256  # images that wait to be written at most: 50 MB of those of 256x256
GRACE_SECONDS = 2.0  # for what waits to be written when the process is asked to end


class Saving:
    """Does what it is given in order, in a thread of its own, so that the next batch is sampled meanwhile.

    What fails there is raised by the next call or at the end of the block, and nothing after it is done. A block that
    ends by an error of its own finishes what it was given, one that ends by a request to stop as much as there is time
    for.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saving")
        self._left: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Saving:
        return self

    def __call__(self, save: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Have ``save(*arguments, **named)`` done; waits while too much is left."""

        def work() -> None:
            if self._failed:
                return
            try:
                save(*arguments, **named)
            except BaseException:
                self._failed = True
                raise

        self._left.append(self._thread.submit(work))
        while self._left and (self._left[0].done() or len(self._left) > SAVES_LEFT):
            self._left.popleft().result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = error is not None and not isinstance(error, Exception)
        end = time.monotonic() + GRACE_SECONDS
        try:
            # What went wrong first is told; what fails besides it is most likely the same.
            with suppress(*([Exception] if error is not None else [])):
                for save in self._left:
                    save.result(timeout=max(0.0, end - time.monotonic()) if stopped else None)
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)


class BatchWriter(Callback):
    """Gives each finished batch to ``save``; nothing piles up in memory, and a kill loses at most one batch.

    Not a ``BasePredictionWriter``: that one asks the loader for sample indices, which batches of items do not have.
    """

    def __init__(self, save: SaveBatch) -> None:
        self.save = save

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Synthesised, *_: Any) -> None:
        self.save(outputs)


def fixed_batches(items: Sequence[WorkItem], batch_size: int, *, together: Together | None) -> list[list[WorkItem]]:
    """Cut the items of a set into batches, always the same ones.

    For guidances that see the images of a class ``together``, a batch holds as many classes as fit into ``batch_size``,
    at least one; for those that see the set, there is one batch.

    A batch that was interrupted is sampled again as a whole, so that a resumed run multiplies the same matrices as an
    uninterrupted one and its files come out the same to the last bit. On a GPU the gradients of guidances that judge
    sets are not promised to repeat (cuDNN's convolutions, scattered sums), so there this holds for the others.
    """
    per_class = sum(item.label == items[0].label for item in items)
    rows = batch_rows(together, batch_size, of_class=per_class, of_set=len(items))
    return [list(items[start : start + rows]) for start in range(0, len(items), rows)]


def synthesise(
    module: DistillModule,
    batches: Sequence[list[WorkItem]],
    save: SaveBatch,
    *,
    trainer: dict[str, Any],
) -> None:
    """Sample batches of items.

    Args:
        module: what samples.
        batches: items to sample at once; bounded by memory, without influence on the result beyond rounding.
        save: called with each finished batch, in the process that sampled it; the next one waits until it returns.
        trainer: arguments of Lightning's Trainer.
    """
    if not batches:
        return
    runner = Trainer(callbacks=[BatchWriter(save)], **trainer)
    loader: DataLoader[list[WorkItem]] = DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]
    runner.predict(module, loader, return_predictions=False)
