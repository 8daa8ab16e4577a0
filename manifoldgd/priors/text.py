"""Priors that are told a class in words: prompts of class names, embedded once, a row each.

To the sampler such a prior is like any other. Labels are rows of a table of embedded prompts, and row 0, the negative
prompt, is what classifier-free guidance moves away from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifoldgd.errors import UserError, require

PROMPT = "a photo of a {class}"
PLACE = "{class}"
AT_ONCE = 16  # prompts that the text encoders take at a time
NEGATIVE = 0  # row of the negative prompt
Prompt = str | list[str] | dict[str, str | list[str]]
Condition = Mapping[str, Tensor]  # what a network is told beside noisy latent and time, a row a prompt


@dataclass(frozen=True)
class Kind:
    """A family of text-conditional priors: how its words are embedded, and how its network is called."""

    network: str  # the name of diffusers' class
    folder: str  # of the network's weights
    encoders: tuple[str, ...]  # folders of the text encoders, where they are there
    cfg_scale: float  # of diffusers' pipeline
    # Folder of the prior, what its index says, prompts; None stands for no negative prompt.
    embed: Callable[[Path, Mapping[str, Any], Sequence[str | None]], Condition]
    # Network, x_t [B, C, H, W], timesteps [B], the prompts' rows, pixels a side of the images -> [B, C or 2C, H, W].
    denoise: Callable[[Any, Tensor, Tensor, Condition, int], Tensor]


class TextConditioning:
    """Embedded prompts of the classes that are asked for, and the network called with them.

    Args:
        kind: of the prior.
        folder: of the prior.
        index: its ``model_index.json``.
        prompt: a text or several, with ``{class}`` for the class's name, or texts by class; ``None``: :data:`PROMPT`.
        negative: what guidance moves away from; ``None`` for no words.
        pixels: side of the images, which some networks are told.

    Raises:
        UserError: a text for all classes lacks ``{class}``.
    """

    def __init__(
        self,
        kind: Kind,
        folder: Path,
        index: Mapping[str, Any],
        *,
        prompt: Prompt | None,
        negative: str | None,
        pixels: int,
    ) -> None:
        self.kind, self.folder, self.index, self.pixels = kind, folder, index, pixels
        self.prompt: Prompt = PROMPT if prompt is None else prompt
        self.negative = negative
        require(
            len(self.prompt) > 0,
            f'expected a text, several, or texts by class, got {self.prompt!r}; write "{PROMPT}", or leave it out',
            key="prompt",
        )
        if not isinstance(self.prompt, dict):
            for text in [self.prompt] if isinstance(self.prompt, str) else self.prompt:
                require(
                    PLACE in text,
                    f"expected {PLACE} in each text, got {text!r}, which would be the same for all classes; write "
                    f'"{PROMPT}", or texts by class',
                    key="prompt",
                )
        self.texts: dict[str, tuple[str, ...]] = {}  # of each class
        self.table: dict[str, Tensor] = {}

    def bind(self, class_names: Sequence[str], words: Sequence[str]) -> list[int]:
        """Embed the prompts of classes, if that is not done.

        Args:
            class_names: by which texts are given.
            words: what takes the place of ``{class}``, for each class.

        Returns:
            The label of each class's first prompt; those of its others follow.

        Raises:
            UserError: a class has no text, or the library that embeds is missing.
        """
        texts = {name: self._texts_of(name, word) for name, word in zip(class_names, words, strict=True)}
        if texts != self.texts:
            prompts = [self.negative, *(text for each in texts.values() for text in each)]
            parts = [
                self.kind.embed(self.folder, self.index, prompts[start : start + AT_ONCE])
                for start in range(0, len(prompts), AT_ONCE)
            ]
            self.table = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            self.texts = texts
        labels, row = [], NEGATIVE + 1
        for each in texts.values():
            labels.append(row)
            row += len(each)
        return labels

    def _texts_of(self, name: str, word: str) -> tuple[str, ...]:
        given: Any = self.prompt
        if isinstance(given, dict):
            require(name in given, f"no text for class {name!r}; add it, or give one text with {PLACE}", key="prompt")
            given = given[name]
        return tuple(text.replace(PLACE, word) for text in ([given] if isinstance(given, str) else given))

    def denoise(self, network: Any, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """As :meth:`manifoldgd.priors.prior.Prior.denoise`; :meth:`bind` comes first."""
        if not self.table:
            raise ValueError("text: expected prompts to be embedded before, call bind()")
        if next(iter(self.table.values())).device != x_t.device:
            self.table = {name: each.to(x_t.device) for name, each in self.table.items()}
        rows = {name: each[labels] for name, each in self.table.items()}
        told = {name: each.to(x_t.dtype) if each.is_floating_point() else each for name, each in rows.items()}
        return self.kind.denoise(network, x_t, timesteps, told, self.pixels)


def encoder(name: str, folder: Path) -> Any:
    """A text encoder or tokenizer of ``transformers``, by the name of its class, from a folder on disk.

    Raises:
        UserError: the library is missing, or the folder cannot be read.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "a prior that is told words needs the library transformers; install it with `pip install "
            "'manifoldgd[text]'`",
            key="path",
        ) from error
    options = {"use_safetensors": True} if any(folder.glob("*.safetensors")) else {}
    transformers.utils.logging.disable_progress_bar()  # a moment each, on a log that is read
    try:
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be read ({reason}); restore it or take another prior", key="path") from error
