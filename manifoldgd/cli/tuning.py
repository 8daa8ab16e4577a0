"""Choosing numbers by accuracy: only on images held out of the training split, never on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from manifoldgd.dataset import judging_split
from manifoldgd.errors import require

EXPERIMENT = "tuning"  # experiments whose name begins so are for choosing numbers
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # runs what it is given, whatever comes out


def check_split(config: DictConfig) -> None:
    """Refuse to choose numbers on the test split: a sweeper that looks at results, or a tuning experiment.

    Raises:
        UserError: such a job would be judged by test images.
    """
    hydra = HydraConfig.get()
    seeks = hydra.mode == RunMode.MULTIRUN and hydra.sweeper["_target_"] != GRID
    tunes = seeks or hydra.runtime.choices["experiment"].startswith(EXPERIMENT)
    require(
        not tunes or config.dataset.validation is not None,
        "dataset.validation: expected a number of training images to hold out, got null: numbers chosen on the test "
        "split would make it training data; set dataset.validation=N",
    )


def objective(result: Mapping[str, Any] | None) -> float | None:
    """What a sweeper maximises: mean last-epoch accuracy in [0, 1]; ``None`` for a job without one."""
    accuracy = (result or {}).get("accuracy")
    return accuracy["last"]["mean"] if accuracy else None


def judged_by(results: list[Mapping[str, Any]]) -> str | None:
    """``validation`` or ``test``: the split that judged, test if it judged any; ``None`` if none did."""
    names = [result["dataset"] for result in results if result.get("accuracy")]
    if not names:
        return None
    return "test" if "test" in map(judging_split, names) else "validation"
