"""The one way to load a prior: a folder or hub id in diffusers format, bundled or your own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiTTransformer2DModel
from diffusers.utils import logging as diffusers_logging

from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.errors import UserError, require
from manifoldgd.priors.prior import Prior

BUNDLED = "bundled:"
BUNDLED_FOLDER = Path(__file__).parents[1] / "weights"
CARD = "manifoldgd.json"  # our own facts about a prior, beside diffusers' files
HASHED_BYTES = 1 << 20  # read at both ends of a weight file: enough to tell two trainings apart, fast on gigabytes


_downloads = ContextVar("downloads", default=True)  # whether the hub may be asked


def load_prior(*, path: str, autoencoder: str | None, cfg_scale: float | None, cfg_channels: int | None) -> Prior:
    """Load ``DiTTransformer2DModel`` + ``AutoencoderKL`` + scheduler config.

    Args:
        path: ``bundled:<name>``, a folder in diffusers format, or a hub id such as ``facebook/DiT-XL-2-256``.
        autoencoder: another folder or hub id for the autoencoder; ``None`` takes the prior's own.
        cfg_scale: recommended classifier-free guidance scale; ``None`` reads it from the prior's card.
        cfg_channels: leading latent channels that it acts on; ``None`` reads it from the card, else all of them.

    Raises:
        UserError: the folder is missing or incomplete, or the hub cannot be reached and the files are not cached.
    """
    folder = _folder_of(path)
    card = _json(folder / CARD) if (folder / CARD).is_file() else {}
    scheduler, index = _json(folder / "scheduler" / "scheduler_config.json"), _json(folder / "model_index.json")
    with _explained("prior.path", path):
        transformer = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer", **_OPTIONS)
    vae_folder = find_autoencoder(autoencoder) or folder
    with _explained("prior.autoencoder" if autoencoder else "prior.path", autoencoder or path):
        nested = {"subfolder": "vae"} if (vae_folder / "vae").is_dir() else {}
        vae = AutoencoderKL.from_pretrained(vae_folder, **nested, **_OPTIONS)
    channels = transformer.config.in_channels
    return Prior(
        name=path.removeprefix(BUNDLED),
        key=_hash_weights([folder / "transformer", vae_folder / nested.get("subfolder", "")]),
        autoencoder=vae.requires_grad_(False).eval(),
        transformer=transformer.requires_grad_(False).eval(),
        schedule=NoiseSchedule.training(
            beta_start=scheduler["beta_start"],
            beta_end=scheduler["beta_end"],
            kind=scheduler["beta_schedule"],
            num_timesteps=scheduler["num_train_timesteps"],
        ),
        class_names=_class_names(index, transformer.config.num_embeds_ada_norm),
        null_class=transformer.config.num_embeds_ada_norm,
        variance=_variance(transformer, scheduler),
        cfg_channels=_first(cfg_channels, card.get("cfg_channels"), channels),
        cfg_scale=float(_first(cfg_scale, card.get("cfg_scale"), 1.0)),
    )


# Weights in half precision are computed with in single precision; `low_cpu_mem_usage` only silences a notice.
_OPTIONS: dict[str, Any] = {"low_cpu_mem_usage": False, "torch_dtype": None, "local_files_only": True}


def find_autoencoder(autoencoder: str | None) -> Path | None:
    """The local folder of an autoencoder that is not the prior's own, ``None`` for its own.

    Raises:
        UserError: as :func:`load_prior`.
    """
    return None if autoencoder is None else _folder_of(autoencoder, "prior.autoencoder")


def _folder_of(path: str, key: str = "prior.path") -> Path:
    """The local folder of a bundled prior, a folder, or a hub id (downloaded or from the cache)."""
    if path.startswith(BUNDLED):
        folder = BUNDLED_FOLDER / path.removeprefix(BUNDLED)
        names = sorted(file.parent.name for file in BUNDLED_FOLDER.glob("*/model_index.json"))
        require(
            (folder / "model_index.json").is_file(),
            f"{key}: no bundled prior {path!r}; bundled are {', '.join(names) or 'none'}",
        )
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        needed = ["transformer/config.json", "scheduler/scheduler_config.json"] if key == "prior.path" else []
        missing = [name for name in needed if not (folder / name).is_file()]
        require(
            not missing,
            f"{key}: folder {path} lacks {', '.join(missing)}; expected a prior in diffusers format "
            "(transformer/, vae/, scheduler/), as `manifoldgd prior` writes it",
        )
        return folder
    looks_like_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    require(
        looks_like_hub_id,
        f"{key}: folder {path} does not exist; train a prior with `manifoldgd prior output={path}`, "
        "or give a hub id such as facebook/DiT-XL-2-256",
    )
    return _from_hub(path, key)


@contextmanager
def only_cached() -> Iterator[None]:
    """Inside, nothing is downloaded: what the cache lacks is missing."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def _from_hub(path: str, key: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "transformer/*.bin", "vae/*.bin", "*.bin"]
    with suppress(OSError, ValueError):
        folder = Path(snapshot_download(path, allow_patterns=wanted, local_files_only=True))
        if _whole(folder):
            return folder
    require(
        _downloads.get(),
        f"{key}: {path} is not in the cache, or only a part of it; run `hf download {path}`, or set {key} to a "
        "local folder",
    )
    try:
        return Path(snapshot_download(path, allow_patterns=wanted))
    except Exception as error:  # the hub client raises its own, httpx's and OSError alike
        home = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise UserError(
            f"{key}: {path} is neither a folder nor cached under HF_HOME={home}, and the hub cannot be reached "
            f"({type(error).__name__}); on a machine with network run `hf download {path}` and copy HF_HOME here, "
            f"or set {key} to a local folder"
        ) from error


def _whole(folder: Path) -> bool:
    """Whether a cached snapshot has all its parts: a download that was cut short leaves the small files."""
    index = _json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    models = [folder / name for name in ("transformer", "vae") if name in index] or [folder]
    weights = all(any([*model.glob("*.safetensors"), *model.glob("*.bin")]) for model in models)
    configured = all((model / "config.json").is_file() for model in models)
    scheduled = "scheduler" not in index or (folder / "scheduler" / "scheduler_config.json").is_file()
    return weights and configured and scheduled


@contextmanager
def _explained(key: str, path: str) -> Iterator[None]:
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{key}: {path} could not be loaded as a diffusers prior ({reason}); check its files"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"prior.path: cannot read {path} ({error}); restore the file or choose another prior"
        ) from error


def _class_names(index: dict[str, Any], count: int) -> tuple[str, ...]:
    names = {int(label): name for label, name in index.get("id2label", {}).items()}
    return tuple(names.get(label, str(label)) for label in range(count))


def _variance(transformer: DiTTransformer2DModel, scheduler: dict[str, Any]) -> Any:
    if transformer.config.out_channels == 2 * transformer.config.in_channels:
        return "learned_range"
    kind = scheduler.get("variance_type", "fixed_small")
    return kind if kind in ("fixed_small", "fixed_large") else "fixed_small"


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _hash_weights(folders: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(HASHED_BYTES))
                stream.seek(max(0, size - HASHED_BYTES))
                digest.update(stream.read(HASHED_BYTES))
    return digest.hexdigest()
