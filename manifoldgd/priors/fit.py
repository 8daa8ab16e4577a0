"""One resumable Lightning fit, for either half of a prior."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from manifoldgd import ranks
from manifoldgd.archives import load_archive
from manifoldgd.errors import RunError, UserError
from manifoldgd.files import atomic_path, naming
from manifoldgd.priors.batches import StepBatches
from manifoldgd.progress import on_terminal, progress_bar
from manifoldgd.stopping import Stopped, asked, finishing, held_back

TIMED_STEPS = 10  # at most, that tell how long a step takes; the first does not count: it sets things up
TIMED_SECONDS, TIMED_AT_LEAST = 10.0, 4  # seconds after which fewer steps have to do, and how many
MEASURED_AFTER = 120.0  # seconds of training, after which its own steps tell it better
SAVE_EVERY = 60.0  # seconds of training, and the step under way, that a kill costs at most
CHECK_EVERY = 25  # optimiser steps between two looks at the loss, at most: what is saved was checked
REFRESH_EVERY = 10  # optimiser steps between two looks of the progress bar

Measured = Callable[[str, float, int], None]  # what is trained, seconds a step, steps that are left


@dataclass(frozen=True)
class Fitted:
    """What a fit took, over all runs."""

    steps: int  # taken, which may be more than were asked for
    seconds: float


def part_of(module: LightningModule) -> str:
    """What a module trains, as the recipe calls it."""
    return type(module).__name__.removesuffix("Training").lower()


class Stopwatch(Callback):
    """Training seconds over all runs of a fit: the count travels in the checkpoint."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far, earlier runs included."""
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.before = state_dict["seconds"]


class StepTimes(Callback):
    """When the steps of a run ended, and what one takes: the median, which others' load for a moment does not move."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        float(outputs["loss"].detach())  # waits for the device
        self.ends.append(self.clock())

    @property
    def seconds(self) -> float:
        """Of a step; the first only sets things up."""
        return median(after - before for before, after in pairwise(self.ends))


class FewSteps(StepTimes):
    """Ends a run that is there to be timed."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs)
        few = len(self.ends) <= TIMED_AT_LEAST
        trainer.should_stop = not few and self.ends[-1] - self.ends[0] > TIMED_SECONDS


class FirstMinutes(StepTimes):
    """Tells once what a step of a run takes, by its own first minutes.

    Args:
        tell: receives the name of what is trained, the seconds of a step and the steps that are left.
        clock: seconds from any moment on.
    """

    def __init__(self, tell: Measured, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        self.tell, self.told = tell, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        if self.told:
            return
        super().on_train_batch_end(trainer, pl_module, outputs)
        if len(self.ends) > TIMED_AT_LEAST and self.ends[-1] - self.ends[0] >= MEASURED_AFTER:
            self.told = True
            self.tell(part_of(pl_module), self.seconds, trainer.max_steps - trainer.global_step)


class StepLines(Callback):
    """The same off a terminal, in lines."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        title = f"train {part_of(pl_module)}"
        bar = progress_bar(title, trainer.max_steps, enabled=True, done=trainer.global_step, unit="steps")
        self.advance = self.stack.enter_context(bar)

    def on_train_batch_end(self, *_: Any) -> None:
        self.advance()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stack.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stack.__exit__(type(exception), exception, exception.__traceback__)


class SharedSteps(Callback):
    """Makes a step of several ranks, each with its share of the batch, the step of the whole batch.

    Gradients are added up between the ranks; the optimiser then does the same on each. A Trainer of its own for each
    rank leaves saving, stopping and continuing what they are for one, which Lightning's DDP would tie to all ranks.
    """

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks.add_up([each.grad for each in pl_module.parameters() if each.grad is not None])


class WholeSteps(Callback):
    """Saves whole steps: now and then, and where a run is asked to end; ends it without where the loss is lost.

    Of several ranks the first saves, also where another has ended.

    Until a step's gradients are there, network, optimiser and average are those of the step before, so a step that
    takes long is given up and the one before it saved. From there until the step's end nothing interrupts.

    Args:
        checkpoint: where the state goes.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.losses = checkpoint, torch.zeros(())
        self.saved: float | None = None  # when; None before the first step of this run

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The backward pass is one call into a library, in which no signal is heard, but where a gradient is told of.
        for parameter in pl_module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _: None)
        self.started = time.monotonic()

    def on_before_optimizer_step(self, *_: Any) -> None:
        finishing()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses = self.losses + outputs["loss"].detach()  # on the device: NaN and infinity stay in a sum
        self.saved = self.saved or self.started
        number, step = asked(), trainer.global_step
        if number is not None:
            raise Stopped(number, self._save(trainer, pl_module))
        if time.monotonic() - self.saved >= SAVE_EVERY:
            self._save(trainer, pl_module)
        elif step % CHECK_EVERY == 0 or step == trainer.max_steps:
            self._check(step, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.saved is None:
            return
        if isinstance(exception, ranks.Lost):
            self._save(trainer, pl_module)
        elif isinstance(exception, Stopped) and not exception.kept and asked() is not None:
            exception.kept = self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, module: LightningModule) -> str:
        """Save the last whole step; returns what is saved, in words."""
        step, part = trainer.global_step, part_of(module)
        self._check(step, module)
        self.saved = time.monotonic()
        if ranks.rank() > 0:
            return ""
        write_state(trainer, self.checkpoint)
        early = f"with recipe.{part}.steps={step} the training of the {part} ends there"
        return f"step {step} of {trainer.max_steps} is saved in {self.checkpoint} ({early})"

    def _check(self, step: int, module: LightningModule) -> None:
        if not math.isfinite(self.losses):
            name = part_of(module)
            raise RunError(
                f"prior: the training of the {name} diverged in the {CHECK_EVERY} steps before step {step} (loss NaN "
                f"or infinite) at learning rate {module.lr:g}; lower recipe.{name}.lr, and choose another output or "
                f"remove {self.checkpoint.parents[1]}"
            )


class StepProgressBar(RichProgressBar):
    """Counts steps, those of earlier runs included; a fit by steps has no epochs worth showing."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps  # Lightning's own total is what a resumed run has left

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


def fit(
    module: LightningModule,
    *,
    folder: Path,
    num_items: int,
    batch_size: int,
    steps: int,
    seed: int,
    trainer: dict[str, Any],
    measured: Measured | None = None,
) -> Fitted:
    """Train ``module`` for ``steps`` in total, continuing from ``folder/last.ckpt`` where there is one.

    A checkpoint of as many steps or more is taken as it is, so that a training can be ended early by asking for less,
    and lengthened by asking for more: the learning rate then follows the schedule of the new number.

    Args:
        module: trains on ``(step, positions)`` batches and makes its own draws from the step.
        folder: where the checkpoint lies.
        num_items: size of the training split.
        batch_size: images a step.
        steps: optimiser steps in all, earlier runs included.
        seed: of the order of the images.
        trainer: accelerator, devices, precision and logger for Lightning's Trainer.
        measured: told once, after the first minutes, what a step takes.

    Raises:
        RunError: the loss has become NaN or infinite; the last checkpoint is of before.
        Stopped: with the state of the last whole step saved.
    """
    checkpoint = folder / "last.ckpt"
    before = progress_in(folder)
    done = before.steps
    if done >= steps:
        module.load_state_dict(load_archive(checkpoint)["state_dict"])
        return before
    stopwatch = Stopwatch()
    folder.mkdir(parents=True, exist_ok=True)
    bar: list[Callback] = []
    if shown := trainer.get("enable_progress_bar", True):
        bar = [StepProgressBar(refresh_rate=REFRESH_EVERY, leave=True) if on_terminal() else StepLines()]
    if measured is not None:
        bar.append(FirstMinutes(measured))
    runner = Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=[stopwatch, SharedSteps(), WholeSteps(checkpoint), *bar],
        log_every_n_steps=25,
        **trainer | {"enable_progress_bar": shown and on_terminal()},
    )
    batches = StepBatches(num_items=num_items, batch_size=batch_size, seed=seed, first=done, last=steps)
    with held_back(), naming(checkpoint):
        runner.fit(module, batches.loader(), ckpt_path=checkpoint if done else None, weights_only=True)
        if ranks.rank() == 0:
            write_state(runner, checkpoint)
    return Fitted(steps, stopwatch.seconds)


def write_state(trainer: Trainer, checkpoint: Path) -> None:
    """Save the state of a training, whole or not at all.

    Lightning writes to the system's temporary folder and moves the file, which copies it where that is another disk.
    """
    with atomic_path(checkpoint) as partial:
        trainer.save_checkpoint(partial, weights_only=False)  # with the state of the optimiser


def progress_in(folder: Path) -> Fitted:
    """Steps and seconds that lie in the checkpoint of a fit.

    Raises:
        UserError: it is damaged.
    """
    checkpoint = folder / "last.ckpt"
    if not checkpoint.is_file():
        return Fitted(0, 0.0)
    try:
        state = load_archive(checkpoint, mmap=True)
    except Exception as error:  # whatever is in the file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "restore it, or remove it to begin this part of the training anew"
        raise UserError(f"{checkpoint} is damaged ({reason}); {remedy}") from error
    return Fitted(int(state["global_step"]), float(state["callbacks"]["Stopwatch"]["seconds"]))


def seconds_a_step(
    module: LightningModule, *, num_items: int, batch_size: int, seed: int, trainer: dict[str, Any]
) -> float:
    """How long a training step takes here, by a few steps; ``module`` is of no use afterwards."""
    times = FewSteps()
    runner = Trainer(
        max_steps=TIMED_STEPS, max_epochs=-1, callbacks=[times], **trainer | {"enable_progress_bar": False}
    )
    batches = StepBatches(num_items=num_items, batch_size=batch_size, seed=seed, first=0, last=TIMED_STEPS)
    runner.fit(module, batches.loader())
    return times.seconds
