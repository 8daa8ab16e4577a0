"""What the configuration may build: each place takes what is registered for it here, and nothing else.

A configuration names what it builds, and it may come from elsewhere: the table of a paper, a
colleague's file. Were any importable name taken, such a file could run any program. A class of one's own is allowed by
who starts the command, ``allow_targets=[my_package.MyGuidance]``, never by a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from manifoldgd.errors import require

KEY = "allow_targets"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def _of(package: str, *names: str) -> tuple[str, ...]:
    return tuple(f"manifoldgd.{package}.{name}" for name in names)


_GUIDANCES = _of(
    "guidance",
    *("NoGuidance", "ModeGuidance", "ManifoldGuidance", "ManifoldReleasedGuidance", "PosteriorGuidance"),
    *("OnPrediction", "CombinedGuidance", "MatchingGuidance", "RegressionGuidance", "AugmentedRegressionGuidance"),
    *(
        "RepulsionGuidance",
        "ProjectedTargetGuidance",
        "KalmanGuidance",
        "DenoiserKalmanGuidance",
        "AtNoisyLatent",
        "LateGuidance",
    ),
    *("LearningRegressionGuidance", "TransportGuidance", "DenoiserFeatureGuidance"),
)
_CLASSIFIERS = _of("students", "Recipe")
_EMBEDDINGS = _of("embeddings", "OwnClassifier", "Inception", "ResNet18", "VisionModel")
# By key, by the place that it is one of, or by its last part: a guidance inside a guidance is a guidance.
REGISTERED = {
    "guidance": _GUIDANCES,
    "method": _GUIDANCES,
    "first": _GUIDANCES,
    "then": _GUIDANCES,
    "sampler": _of("diffusion", "DDPM", "DDIM", "Euler"),
    "start": _of("diffusion", "Start"),
    "overgeneration": _of("distill.overgeneration", "Overgeneration"),
    "reading": _of("store.set_reading", "Reading"),
    "clusterer": _of("prototypes", "Divisive", "LevelWise", "KMeans", "Agglomerative", "Random"),
    "coordinates": _of("guidance", "NeighbourhoodCoordinates"),
    "residual": _of("guidance", "PixelResidual"),
    "representative": _of("prototypes", "MeanOfNearest"),
    "space": _of(
        "prototypes", "RawLatents", "PooledLatents", "PrincipalComponents", "DenoiserFeatures", "ClassifierEmbedding"
    ),
    "dataset": _of(
        "data",
        *("digits", "fashion_mnist", "image_folder", "parquet", "webdataset", "npz"),
        *("cifar10", "cifar100", "svhn", "tiny_imagenet"),
    ),
    "embedding": _EMBEDDINGS,
    "embedding.*": _EMBEDDINGS,  # of several, each under a name of its own
    "prior": _of("priors", "load_prior"),
    "student": _of("students", "Student", "TimmStudent"),
    "protocol": _of("students", "HardLabel", "SoftLabel"),
    "augmentation": _of("students", "DSA", "LargeImage", "ShiftFlip"),
    "teacher": _CLASSIFIERS,
    "recipe.autoencoder": _of("priors.training", "AutoencoderRecipe"),
    "recipe.denoiser": _of("priors.training", "DenoiserRecipe"),
    "machine": _of("machine", "Machine"),
    "logger": _of("tracking", "NoTracker", "CSVTracker", "TensorBoardTracker", "WandbTracker"),
    "small": _CLASSIFIERS,  # the two of conf/scores.yaml
    "large": _CLASSIFIERS,
}

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allowing(names: Sequence[str]) -> Iterator[None]:
    """Inside the block ``names`` may be built too, wherever a configuration asks for them."""
    before = _allowed.set(tuple(names))
    try:
        yield
    finally:
        _allowed.reset(before)


def allowed() -> tuple[str, ...]:
    """What may be built beside what is registered."""
    return _allowed.get()


def read_allowed(value: object) -> tuple[str, ...]:
    """The names in a value of ``allow_targets``.

    Raises:
        UserError: it is no list of dotted names.
    """
    names = value if isinstance(value, list) else [value]
    require(
        all(isinstance(name, str) and _NAME.fullmatch(name) for name in names),
        f"{KEY}: expected dotted names of classes, got {value!r}; write {KEY}=[my_package.MyGuidance]",
    )
    return tuple(map(str, names))


def check_target(path: str, name: object) -> None:
    """Raise :class:`UserError` unless ``name`` may be built at ``path``; nothing is imported to find out."""
    place, _, last = path.rpartition(".")
    known = REGISTERED.get(path) or REGISTERED.get(f"{place}.*") or REGISTERED.get(last, ())
    expected = f"one of {', '.join(known)}" if known else "a value, nothing is built here"
    require(
        name in known or name in allowed(),
        f"{path}._target_: expected {expected}, got {name!r}; a class of your own is allowed on the command line only: "
        f"{KEY}=[my_package.MyClass]",
    )
