"""``manifoldgd prior import FILE``: published weights of DiT and SiT as a prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifoldgd.errors import require

USAGE = """manifoldgd prior import: published weights of DiT or SiT as a prior in diffusers format

usage: manifoldgd prior import FILE [output=FOLDER] [path=diffusion|flow] [heads=N]

  output   where the prior goes; the file's name without its ending
  path     what was trained; diffusion for a file named DiT..., flow for SiT...
  heads    of attention, where the width is none of the published sizes

example: manifoldgd prior import DiT-XL-2-256x256.pt output=dit_xl_2_256"""
KEYS = ("output", "path", "heads")


def import_weights(words: Sequence[str]) -> int:
    """Convert a file and say how it is used; returns the exit code."""
    if "--help" in words or "-h" in words:
        print(USAGE)
        return 0
    given = dict(word.split("=", 1) for word in words if word.partition("=")[0] in KEYS and "=" in word)
    files = [word for word in words if word.partition("=")[0] not in KEYS or "=" not in word]
    require(
        len(files) == 1, f"prior import: expected one file, got {' '.join(files) or 'none'}; {USAGE.splitlines()[2]}"
    )
    file = Path(files[0]).expanduser()
    guessed = {"DiT": "diffusion", "SiT": "flow"}.get(file.name[:3])
    path, heads = given.get("path", guessed), given.get("heads")
    require(
        path in ("diffusion", "flow"),
        f"path: expected diffusion (DiT) or flow (SiT), got {path}; the file's name does not tell, so set it",
    )
    require(heads is None or heads.isdigit(), f"heads: expected a whole number, got {heads!r}; correct it")
    folder = Path(given.get("output", file.stem)).expanduser()

    from manifoldgd.data.imagenet import names_by_wnid  # here, because what follows imports torch
    from manifoldgd.priors.imported import import_weights_file

    names = tuple(names_by_wnid().values())
    import_weights_file(file, folder, path=path, heads=int(heads) if heads else None, class_names=names)  # type: ignore[arg-type]
    sampler = " sampler=euler" if path == "flow" else ""
    print(f"prior: {folder}; its README.md says licence and autoencoder")
    print(f"next: manifoldgd distill dataset=imagenette dataset.folder=FOLDER prior={folder}{sampler} ipc=10")
    return 0
