"""Training of one network, by Lightning's fit loop."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Generator, Tensor, nn

from manifoldgd.errors import RunError
from manifoldgd.finite import NotFinite
from manifoldgd.machine import own_device, single_process
from manifoldgd.progress import progress_bar
from manifoldgd.students.augmentation import Augmentation
from manifoldgd.students.cutmix import cutmix
from manifoldgd.students.inference import Pixels
from manifoldgd.students.objectives import Batch, Objective

Optimisation = Callable[[nn.Module], Any]  # -> what LightningModule.configure_optimizers returns


class ShuffledIndices:
    """A loader of index batches ``[b]`` int64, reshuffled at each pass; the last batch may be smaller."""

    def __init__(self, count: int, batch_size: int, generator: Generator) -> None:
        self.count, self.batch_size, self.generator = count, batch_size, generator

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randperm(self.count, generator=self.generator).split(self.batch_size))


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
        if self.logger is not None:
            self.logger.log_metrics(dict(metrics), step=self.current_epoch + 1)


class EpochBar(L.Callback):
    """Progress counted in epochs, of which a real training split takes minutes each."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs, self.stack = title, epochs, ExitStack()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        bar = progress_bar(self.title, self.epochs, enabled=True, unit="epochs", transient=True)
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
            callbacks=[EpochBar(title, epochs)] if title else [],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module.network.train()
        trainer.fit(module, loader)
    module.cpu()
