"""Training of one network, by Lightning's fit loop."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import Generator, Tensor, nn

from manifoldgd.errors import RunError
from manifoldgd.files import atomic_path
from manifoldgd.finite import NotFinite
from manifoldgd.machine import own_device, single_process
from manifoldgd.progress import progress_bar
from manifoldgd.students.augmentation import Augmentation
from manifoldgd.students.cutmix import cutmix
from manifoldgd.students.inference import Pixels
from manifoldgd.students.objectives import Batch, Objective
from manifoldgd.students.unfinished import Unfinished

SAVE_EVERY = 60.0  # seconds of training, and the epoch under way, that a stop costs at most

Optimisation = Callable[[nn.Module], Any]  # -> what LightningModule.configure_optimizers returns


class ShuffledIndices:
    """A loader of index batches ``[b]`` int64, reshuffled at each pass; the last batch may be smaller.

    A pass is drawn with its first batch: Lightning begins passes that it never reads, one to see whether it can and,
    where a training is continued, another. Recorded students rest on a first one that was drawn for nothing.
    """

    def __init__(self, count: int, batch_size: int, generator: Generator) -> None:
        self.count, self.batch_size, self.generator = count, batch_size, generator
        torch.randperm(count, generator=generator)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.randperm(self.count, generator=self.generator).split(self.batch_size)


class Supervised(L.LightningModule):
    """An objective on augmented batches of images that live on the training device, or are read as they are needed.

    Args:
        network: Normalised images -> logits.
        images: uint8 ``[n, C, H, W]``, or what gives those of positions ``[b]`` on the CPU.
        labels: int64 ``[n]``.
        pixels: Normalisation.
        augmentation: Applied to each batch.
        size: Height and width of the network's input.
        cutmix_alpha: 0 for no CutMix.
        generator: CPU generator of augmentation and CutMix.
        objective: The loss; a module is moved to the training device, and not trained.
        optimisation: Builds optimizer and learning-rate schedule.
        after_epoch: Called with the epoch (from 1) and its mean training loss; returns what the logger shall record.
        name: What is trained, for messages.
    """

    images: Tensor  # unless they are read
    labels: Tensor

    def __init__(
        self,
        network: nn.Module,
        images: Tensor | Callable[[Tensor], Tensor],
        labels: Tensor,
        pixels: Pixels,
        *,
        augmentation: Augmentation,
        size: tuple[int, int],
        cutmix_alpha: float,
        generator: Generator,
        objective: Objective,
        optimisation: Optimisation,
        after_epoch: Callable[[int, float], Mapping[str, float]],
        name: str,
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.pixels = pixels
        self.augmentation = augmentation
        self.size = size
        self.cutmix_alpha = cutmix_alpha
        self.generator = generator
        self.objective = objective
        self.optimisation = optimisation
        self.after_epoch = after_epoch
        self.losses: list[Tensor] = []
        self.history: list[dict[str, float]] = []  # what the logger was told, by epoch
        self.strict_loading = False  # of a state, which holds the network alone
        self.read = None if isinstance(images, Tensor) else images
        self.register_buffer("images", images if isinstance(images, Tensor) else None, persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def configure_optimizers(self) -> Any:
        """As given."""
        return self.optimisation(self.network)

    def batch(self, indices: Tensor) -> Tensor:
        """Augmented, normalised images ``[b, C, *size]``."""
        chosen = self.images[indices] if self.read is None else self.read(indices.cpu()).to(self.device)
        images = self.pixels.unit(chosen)
        if self.augmentation.space == "unit":
            return self.pixels.normalised(self.augmentation(images, self.generator, self.size))
        return self.augmentation(self.pixels.normalised(images), self.generator, self.size)

    def training_step(self, indices: Tensor, batch_idx: int) -> Tensor:
        """The loss of one batch of row indices."""
        images, labels = self.batch(indices), self.labels[indices]
        batch = Batch(images, labels)
        if self.cutmix_alpha:
            images, partners, kept = cutmix(images, self.cutmix_alpha, self.generator)
            batch = Batch(images, labels, labels[partners], kept)
        loss = self.objective(self.network(batch.images), batch)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        """Report the epoch.

        Raises:
            RunError: The loss or the outputs have become NaN or infinite: no later epoch can mend the weights.
        """
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        metrics = None
        if math.isfinite(loss):
            with suppress(NotFinite):  # the last step of an epoch may be the one that spoils the weights
                metrics = self.after_epoch(self.current_epoch + 1, loss)
        if metrics is None:
            group = self.trainer.optimizers[0].param_groups[0]
            rate = group.get("max_lr", group["initial_lr"])  # as configured: the schedule moves "lr"
            raise RunError(
                f"{self.name}: the training diverged in epoch {self.current_epoch + 1} (loss {loss:.3g}, or outputs "
                f"that are not finite) at learning rate {rate:g}; lower the learning rate, or train in single "
                "precision (machine.student_precision=32-true)"
            )
        self.history.append(dict(metrics))
        if self.logger is not None:
            self.logger.log_metrics(self.history[-1], step=self.current_epoch + 1)


class Watched(Protocol):
    """What follows a training, and goes on following one that is continued."""

    def state_dict(self) -> dict[str, Any]:
        """What it has seen so far, in tensors, numbers, strings, lists and dictionaries."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was seen."""
        ...


class EpochEnds(Checkpoint):
    """Saves the state of a training at the end of an epoch, a minute or more after the last time.

    It holds all that later epochs depend on, so a training that is continued ends with the same bits on a CPU: network,
    optimizer and schedule, which Lightning knows, the draws of order, augmentation and dropout, and what was seen.

    Args:
        unfinished: where the state goes.
        loader: draws the order.
        watched: what follows the training, if anything does.
    """

    def __init__(self, unfinished: Unfinished, loader: ShuffledIndices, watched: Watched | None) -> None:
        self.unfinished, self.loader, self.watched = unfinished, loader, watched
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the logger of the epochs that another process has trained."""
        assert isinstance(pl_module, Supervised)
        if trainer.logger is not None:
            for epoch, metrics in enumerate(pl_module.history, start=1):
                trainer.logger.log_metrics(metrics, step=epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, if it is time; called when the module has taken note of the epoch."""
        if time.monotonic() - self.saved >= SAVE_EVERY:
            with atomic_path(self.unfinished.file) as partial:
                trainer.save_checkpoint(partial, weights_only=False)  # with the state of the optimizer
            self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know, and leave out a teacher."""
        assert isinstance(pl_module, Supervised)
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name.startswith("network.")}
        draws = [source.get_state() for source in (self.loader.generator, pl_module.generator)]
        seen = {} if self.watched is None else self.watched.state_dict()
        self.unfinished.describe(checkpoint)
        checkpoint |= {"draws": [*draws, torch.get_rng_state()], "seen": seen, "history": pl_module.history}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        assert isinstance(pl_module, Supervised)
        order, augmentation, dropout = checkpoint["draws"]
        self.loader.generator.set_state(order)
        pl_module.generator.set_state(augmentation)
        torch.set_rng_state(dropout)
        pl_module.history = checkpoint["history"]
        if self.watched is not None:
            self.watched.load_state_dict(checkpoint["seen"])


class EpochBar(L.Callback):
    """Progress counted in epochs, of which a real training split takes minutes each."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs, self.stack = title, epochs, ExitStack()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        done = trainer.current_epoch
        bar = progress_bar(self.title, self.epochs, enabled=True, done=done, unit="epochs", transient=True)
        self.advance = self.stack.enter_context(bar)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """A part of an epoch done."""
        self.advance(1 / trainer.num_training_batches)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self.stack.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the message is readable."""
        self.stack.close()


def fit(
    module: Supervised,
    loader: ShuffledIndices,
    *,
    epochs: int,
    accelerator: str,
    title: str | None,
    logger: Logger | Literal[False] = False,
    precision: Any = "32-true",
    unfinished: Unfinished | None = None,
    watched: Watched | None = None,
) -> None:
    """Train on one device, quietly.

    Args:
        module: Trained in place; on the CPU afterwards.
        loader: Index batches.
        epochs: Passes.
        accelerator: As for ``lightning.Trainer``.
        title: Of the progress bar; ``None`` for no bar.
        logger: A Lightning logger, or ``False`` for none.
        precision: As for ``lightning.Trainer``.
        unfinished: Where the state is saved every now and then, and continued from; whoever keeps what was trained
            removes it. ``None`` for a training that begins anew when it was stopped.
        watched: What follows the training and goes on with it.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for text in ("does not have many workers", "LeafSpec", "smaller than the logging interval", "in eval mode"):
            warnings.filterwarnings("ignore", message=f".*{text}.*")
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            precision=precision,
            plugins=single_process(),
            **own_device(),
            logger=logger,
            callbacks=[
                *([EpochBar(title, epochs)] if title else []),
                *([EpochEnds(unfinished, loader, watched)] if unfinished else []),
            ],
            enable_checkpointing=unfinished is not None,  # or Lightning refuses one that is a checkpoint callback
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module.network.train()
        begun = unfinished.file if unfinished is not None and unfinished.is_there() else None
        trainer.fit(module, loader, ckpt_path=begun, weights_only=True)
    module.cpu()
