"""The one way to load a prior: a folder or hub id in diffusers format, bundled or your own.

``model_index.json`` says of which kind it is. What it says is looked up in a table of what is known here: nothing is
built or imported by a name from a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from manifoldgd.diffusion.flow import FlowSchedule
from manifoldgd.diffusion.samplers import PredictionKind, Schedule
from manifoldgd.diffusion.schedule import NoiseSchedule
from manifoldgd.errors import UserError, argument, require
from manifoldgd.hub import fetched
from manifoldgd.priors.pixart import PIXART
from manifoldgd.priors.prior import Prior
from manifoldgd.priors.stable_diffusion import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from manifoldgd.priors.stable_diffusion_3 import STABLE_DIFFUSION_3
from manifoldgd.priors.text import NEGATIVE, Kind, Prompt, TextConditioning
from manifoldgd.priors.weights import CHECKSUMS, autoencoder_key, check_files, weights_key
from manifoldgd.ranges import Guided, Range, checked

BUNDLED = "bundled:"
BUNDLED_FOLDER = Path(__file__).parents[1] / "weights"
CARD = "manifoldgd.json"  # our own facts about a prior, beside diffusers' files

LABELLED = ("DiTPipeline",)  # told a label
TOLD_WORDS: dict[str, Kind] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "PixArtAlphaPipeline": PIXART,
    "PixArtSigmaPipeline": PIXART,
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
}
# What is fetched of a hub's repository: weights as diffusers and transformers name them in full precision.
_NAMES = ("diffusion_pytorch_model", "model")
FETCHED = (
    "*.json",
    "tokenizer*/*",
    "diffusion_pytorch_model.safetensors",
    *(
        f"{part}/{name}{tail}.safetensors"
        for part in ("transformer", "unet", "vae", "text_encoder*")
        for name in _NAMES
        for tail in ("", "-*")
    ),
)

_downloads = ContextVar("downloads", default=True)  # whether the hub may be asked


@checked
def load_prior(
    *,
    path: str,
    autoencoder: str | None,
    cfg_scale: Guided | None,
    cfg_channels: Annotated[int, Range("[1, 256]")] | None,
    revision: str | None = None,
    autoencoder_revision: str | None = None,
    allow_bin: bool = False,
    prompt: Prompt | None = None,
    negative_prompt: str | None = None,
) -> Prior:
    """Load a denoiser, an ``AutoencoderKL`` and the scheduler's config: DiT, or one of :data:`TOLD_WORDS`.

    Args:
        path: ``bundled:<name>``, a folder in diffusers format, or a hub id such as ``facebook/DiT-XL-2-256``.
        autoencoder: another folder or hub id for the autoencoder; ``None`` takes the prior's own.
        cfg_scale: recommended classifier-free guidance scale; ``None`` reads it from the prior's card.
        cfg_channels: leading latent channels that it acts on; ``None`` reads it from the card, else all of them.
        revision: commit, tag or branch of the hub's repository; ``None`` for ``main`` as it is.
        autoencoder_revision: as ``revision``, of the other autoencoder.
        allow_bin: whether ``.bin`` files (pickles, read as weights alone) may be downloaded where a repository has no
            safetensors.
        prompt: for a prior that is told words: a text or several with ``{class}``, or texts by class; ``None`` for
            ``a photo of a {class}``.
        negative_prompt: what guidance moves away from, in words.

    Raises:
        UserError: the folder is missing or incomplete, a file of it is damaged, or the hub cannot be reached and the
            files are not cached.
    """
    folder = _folder_of(path, "path", revision, allow_bin)
    card = _json(folder / CARD) if (folder / CARD).is_file() else {}
    if autoencoder is None and not (folder / "vae").is_dir():
        autoencoder = card.get("autoencoder")  # of an imported prior, the hub id of the one that it was trained with
    vae_folder = find_autoencoder(autoencoder, autoencoder_revision, allow_bin) or folder
    vae_key = "autoencoder" if autoencoder else "path"
    nested = {"subfolder": "vae"} if (vae_folder / "vae").is_dir() else {}
    scheduler_file, index_file = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    _check_own(folder, "path", path, {"index": index_file})  # before it is read
    index = _json(index_file)
    kind = _kind(index, path)
    require(
        kind is not None or (prompt is None and negative_prompt is None),
        f"expected null: {path} is told a label, not words; leave it out",
        key="prompt" if prompt is not None else "negative_prompt",
    )
    network_folder = kind.folder if kind else "transformer"
    parts = {network_folder: folder / network_folder, "vae": vae_folder / nested.get("subfolder", "")}
    if kind:
        parts |= {name: folder / name for name in kind.encoders if (folder / name).is_dir()}
    _check_own(folder, "path", path, {**parts, "scheduler": scheduler_file})
    if vae_folder != folder:
        _check_own(vae_folder, vae_key, str(autoencoder), {})
    scheduler = _json(scheduler_file)
    import diffusers  # here, because it takes seconds

    with _explained("path", path):
        made: Any = getattr(diffusers, kind.network if kind else "DiTTransformer2DModel")
        network = made.from_pretrained(folder, subfolder=network_folder, **_options(parts[network_folder]))
    with _explained(vae_key, autoencoder or path):
        vae = diffusers.AutoencoderKL.from_pretrained(vae_folder, **nested, **_options(parts["vae"]))
    channels = network.config.in_channels
    schedule, prediction = _schedule(scheduler, path)
    if "frequency_shift" in scheduler:  # of an imported DiT: see manifoldgd.priors.imported
        for block in network.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = scheduler["frequency_shift"]
    require(
        cfg_channels is None or cfg_channels <= channels,
        f"expected at most the {channels} channels of a latent of {path}, got {cfg_channels}; lower it, or set null",
        key="cfg_channels",
    )
    text = None
    if kind:
        pixels = network.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
        text = TextConditioning(kind, folder, index, prompt=prompt, negative=negative_prompt, pixels=pixels)
    others = [parts[name] for name in kind.encoders if name in parts] if kind else []
    return Prior(
        name=path.removeprefix(BUNDLED),
        key=weights_key(parts[network_folder], parts["vae"], scheduler_file, *others),
        autoencoder_key=autoencoder_key(parts["vae"]),
        revision=_commit(folder),
        autoencoder_revision=_commit(vae_folder),
        autoencoder=vae.requires_grad_(False).eval(),
        network=network.requires_grad_(False).eval(),
        schedule=schedule,
        prediction=prediction,
        text=text,
        class_names=() if kind else _class_names(index, network.config.num_embeds_ada_norm),
        null_class=NEGATIVE if kind else network.config.num_embeds_ada_norm,
        variance=_variance(network, scheduler),
        cfg_channels=_first(cfg_channels, card.get("cfg_channels"), channels),
        cfg_scale=float(_first(cfg_scale, card.get("cfg_scale"), kind.cfg_scale if kind else 1.0)),
    )


def _kind(index: dict[str, Any], path: str) -> Kind | None:
    """The kind of a prior that is told words; ``None`` for one that is told a label."""
    name = index.get("_class_name", LABELLED[0])
    known = ", ".join([*LABELLED, *TOLD_WORDS])
    require(
        name in LABELLED or name in TOLD_WORDS,
        f"{path} is of the kind {name}, expected one of {known}; choose such a prior",
        key="path",
    )
    return TOLD_WORDS.get(name)


def _schedule(scheduler: dict[str, Any], path: str) -> tuple[Schedule, PredictionKind]:
    """What the scheduler's config says of noise levels, and of what is predicted."""
    if scheduler.get("_class_name") == "FlowMatchEulerDiscreteScheduler":
        require(
            not scheduler.get("use_dynamic_shifting"),
            f"{path} shifts the times of its flow by the size of the image, which is not supported; choose a prior "
            "with one shift, such as Stable Diffusion 3",
            key="path",
        )
        clean, noise = scheduler.get("told_at_ends", (0.0, None))  # of an imported SiT
        count, shift = scheduler["num_train_timesteps"], scheduler.get("shift", 1.0)
        return FlowSchedule.training(num_timesteps=count, shift=shift, clean=clean, noise=noise), "flow"
    prediction = scheduler.get("prediction_type", "epsilon")
    require(
        prediction in ("epsilon", "v_prediction"),
        f"{path} predicts {prediction!r}, expected epsilon, v_prediction or a flow; choose such a prior",
        key="path",
    )
    require(
        not scheduler.get("rescale_betas_zero_snr"),
        f"{path} has a schedule whose last step holds no image (rescale_betas_zero_snr), which is not supported; "
        "choose another prior",
        key="path",
    )
    return (
        NoiseSchedule.training(
            beta_start=scheduler["beta_start"],
            beta_end=scheduler["beta_end"],
            kind=scheduler["beta_schedule"],
            num_timesteps=scheduler["num_train_timesteps"],
        ),
        prediction,
    )


def _options(folder: Path) -> dict[str, Any]:
    """How a network is read: where there are safetensors, no pickle; pickles as weights alone, as diffusers does it.

    Weights in half precision are computed with in single precision; `low_cpu_mem_usage` only silences a notice.
    """
    quiet = {"low_cpu_mem_usage": False, "torch_dtype": None, "local_files_only": True}
    return {**quiet, "use_safetensors": any(folder.glob("*.safetensors")) or not any(folder.glob("*.bin"))}


def find_autoencoder(autoencoder: str | None, revision: str | None = None, allow_bin: bool = False) -> Path | None:
    """The local folder of an autoencoder that is not the prior's own, ``None`` for its own.

    Raises:
        UserError: as :func:`load_prior`.
    """
    return None if autoencoder is None else _folder_of(autoencoder, "autoencoder", revision, allow_bin)


def _check_own(folder: Path, key: str, path: str, parts: dict[str, Path]) -> None:
    bundled = path.startswith(BUNDLED)
    remedy = (
        "install the package again"
        if bundled
        else f"restore it from a copy, or set it to another prior; if you changed it on purpose, remove "
        f"{folder / CHECKSUMS}"
    )
    check_files(folder, key, {name: each for name, each in parts.items() if each.exists()}, remedy=remedy)


def _commit(folder: Path) -> str | None:
    """The commit of a snapshot of the hub; ``None`` for other folders."""
    return folder.name if folder.parent.name == "snapshots" else None


def _folder_of(path: str, key: str, revision: str | None, allow_bin: bool) -> Path:
    """The local folder of a bundled prior, a folder, or a hub id (downloaded or from the cache)."""
    if path.startswith(BUNDLED):
        folder = BUNDLED_FOLDER / path.removeprefix(BUNDLED)
        names = sorted(file.parent.name for file in BUNDLED_FOLDER.glob("*/model_index.json"))
        require(
            (folder / "model_index.json").is_file(),
            f"no bundled prior {path!r}; bundled are {', '.join(names) or 'none'}",
            key=key,
        )
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        network = "unet" if (folder / "unet").is_dir() else "transformer"
        needed = [f"{network}/config.json", "scheduler/scheduler_config.json"] if key == "path" else []
        missing = [name for name in needed if not (folder / name).is_file()]
        require(
            not missing,
            f"folder {path} lacks {', '.join(missing)}; expected a prior in diffusers format "
            "(transformer/ or unet/, vae/, scheduler/), as `manifoldgd prior` writes it",
            key=key,
        )
        return folder
    looks_like_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    require(
        looks_like_hub_id,
        f"folder {path} does not exist; train a prior with `manifoldgd prior output={path}`, "
        "or give a hub id such as facebook/DiT-XL-2-256"
        if key == "path"
        else f"folder {path} does not exist; set it to a folder that does, or to a hub id",
        key=key,
    )
    return _from_hub(path, key, revision, allow_bin)


@contextmanager
def only_cached() -> Iterator[None]:
    """Inside, nothing is downloaded: what the cache lacks is missing."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def _from_hub(path: str, key: str, revision: str | None, allow_bin: bool) -> Path:
    from huggingface_hub import snapshot_download

    weights = ["*.safetensors", *(["*.bin"] if allow_bin else [])]
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": [*FETCHED, *weights[1:]]}
    place = f"{path}{'' if revision is None else f' at {revision}'}"
    with suppress(OSError, ValueError):
        folder = Path(snapshot_download(path, **wanted, local_files_only=True))
        if _whole(folder, weights):
            return folder
    at = "" if revision is None else f" --revision {revision}"
    require(
        _downloads.get(),
        f"{place} is not in the cache, or only a part of it; run `hf download {path}{at}`, or set {argument(key)} to "
        f"a local folder{_otherwise(key)}",
        key=key,
    )
    try:
        folder = fetched(path, **wanted)
    except Exception as error:  # the hub client raises its own, httpx's and OSError alike
        home = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise UserError(
            f"{place} is neither a folder nor cached under HF_HOME={home}, and the hub cannot be reached "
            f"({type(error).__name__}); on a machine with network run `hf download {path}{at}` and copy HF_HOME here, "
            f"or set it to a local folder{_otherwise(key)}",
            key=key,
        ) from error
    require(
        allow_bin or all(any(model.glob("*.safetensors")) for model in _models(folder)),
        f"{place} holds no weights as safetensors; set allow_bin=true to take its .bin files, which are "
        "pickles but read as weights alone",
        key=key,
    )
    return folder


def _otherwise(key: str) -> str:
    """What else there is where a prior cannot be had, the end of an error's sentence."""
    if key != "path":
        return ""
    return (
        "; without it, train a small prior on the images with `manifoldgd prior output=my_prior` and set "
        "prior=my_prior, or make a set of real images with source=herding"
    )


def _models(folder: Path) -> list[Path]:
    """The folders of the networks of a snapshot: of a pipeline's, or the snapshot itself."""
    index = _json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    kind = TOLD_WORDS.get(index.get("_class_name", ""))
    names = (kind.folder, "vae", *(name for name in kind.encoders if name in index)) if kind else ("transformer", "vae")
    return [folder / name for name in names if name in index or (folder / name).is_dir()] or [folder]


def _whole(folder: Path, weights: list[str]) -> bool:
    """Whether a cached snapshot has all its parts: a download that was cut short leaves the small files."""
    index = _json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    models = _models(folder)
    found = all(any(any(model.glob(pattern)) for pattern in weights) for model in models)
    configured = all((model / "config.json").is_file() for model in models)
    scheduled = "scheduler" not in index or (folder / "scheduler" / "scheduler_config.json").is_file()
    indexed = models == [folder] or (folder / "model_index.json").is_file()
    return found and configured and scheduled and indexed


@contextmanager
def _explained(key: str, path: str) -> Iterator[None]:
    from diffusers.utils import logging as diffusers_logging

    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} could not be loaded as a diffusers prior ({reason}); check its files", key=key
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}); restore the file or choose another prior", key="path"
        ) from error


def _class_names(index: dict[str, Any], count: int) -> tuple[str, ...]:
    names = {int(label): name for label, name in index.get("id2label", {}).items()}
    return tuple(names.get(label, str(label)) for label in range(count))


def _variance(network: Any, scheduler: dict[str, Any]) -> Any:
    if network.config.out_channels == 2 * network.config.in_channels:
        return "learned_range"
    kind = scheduler.get("variance_type", "fixed_small")
    return kind if kind in ("fixed_small", "fixed_large") else "fixed_small"


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
