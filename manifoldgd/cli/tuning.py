"""Choosing numbers by accuracy: only on images held out of the training split, never on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from manifoldgd.cli.compose import Config
from manifoldgd.dataset import judging_split
from manifoldgd.errors import require

EXPERIMENT = "tuning"  # experiments whose name begins so are for choosing numbers
NOT_HELD_OUT = (
    "dataset.validation: expected a number of training images to hold out, got null: numbers chosen on the test split "
    "would make it training data; set dataset.validation=N"
)
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # runs what it is given, whatever comes out


# Where the sweepers say which way they go: key of `hydra.sweeper`, and the value by which they maximise.
DIRECTIONS = {"direction": "maximize", "optim.maximize": True, "ax_config.experiment.minimize": False}


def check_search(config: Config) -> bool:
    """Whether a sweep chooses its jobs by their results; such a one maximises accuracy on held-out images.

    Args:
        config: of the first job.

    Raises:
        UserError: it would minimise, or be judged by test images.
    """
    sweeper = config.hydra.sweeper
    seeks = sweeper["_target_"] != GRID
    for key, wanted in DIRECTIONS.items():
        value = OmegaConf.select(sweeper, key) if seeks else None
        # Hydra's schema of Optuna turns a word into a member of an enumeration.
        value = getattr(value, "name", value)
        spelled = str(wanted).lower() if isinstance(wanted, bool) else wanted
        require(
            value is None or value == wanted,
            f"hydra.sweeper.{key}: expected {spelled}, got {value}: accuracy is sought, the higher the better; set "
            f"hydra.sweeper.{key}={spelled}, or take experiment=tuning_optuna",
        )
    tunes = seeks or config.choice("experiment").startswith(EXPERIMENT)
    require(not tunes or OmegaConf.select(config.values, "dataset.validation") is not None, NOT_HELD_OUT)
    return seeks


def check_split(config: Config) -> None:
    """Refuse to choose numbers on the test split: a sweeper that looks at results, or a tuning experiment.

    Raises:
        UserError: such a job would be judged by test images.
    """
    seeks = config.in_sweep and config.hydra.sweeper["_target_"] != GRID
    tunes = seeks or config.choice("experiment").startswith(EXPERIMENT)
    require(not tunes or config.values.dataset.validation is not None, NOT_HELD_OUT)


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
