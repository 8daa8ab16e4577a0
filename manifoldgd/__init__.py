"""Training-free dataset distillation with manifold-guided latent diffusion.

Two levels. :func:`run` does what the command does with a configuration of :func:`compose`. The steps of it are
:func:`encode`, :func:`cluster`, :func:`synthesise` and :func:`evaluate`, which take objects: a dataset, a prior, a
clusterer, a guidance, a sampler, a student. Everything is loaded when it is first used, so importing this package
takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a type checker and an editor see what __getattr__ finds
    from manifoldgd import diffusion, guidance, metrics, prototypes, set_guidance, students
    from manifoldgd.cli.compose import Config
    from manifoldgd.errors import RunError, UserError
    from manifoldgd.library import (
        build,
        cluster,
        compose,
        encode,
        evaluate,
        load_dataset,
        load_prior,
        load_set,
        load_student,
        run,
        synthesise,
    )
    from manifoldgd.pipeline.evaluation import Judged

__version__ = "0.1.0"

_HOMES = {
    "Config": "manifoldgd.cli.compose",
    "Judged": "manifoldgd.pipeline.evaluation",
    "RunError": "manifoldgd.errors",
    "UserError": "manifoldgd.errors",
    **dict.fromkeys(
        (
            "build",
            "cluster",
            "compose",
            "synthesise",
            "encode",
            "evaluate",
            "load_dataset",
            "load_prior",
            "load_set",
            "load_student",
            "run",
        ),
        "manifoldgd.library",
    ),
}
_PACKAGES = ("diffusion", "guidance", "metrics", "prototypes", "set_guidance", "students")

__all__ = [
    "Config",
    "Judged",
    "RunError",
    "UserError",
    "__version__",
    "build",
    "cluster",
    "compose",
    "diffusion",
    "encode",
    "evaluate",
    "guidance",
    "load_dataset",
    "load_prior",
    "load_set",
    "load_student",
    "metrics",
    "prototypes",
    "run",
    "set_guidance",
    "students",
    "synthesise",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"manifoldgd.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'manifoldgd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
