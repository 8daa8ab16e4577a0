"""Images through an embedding network, which all ranks of a command share."""

from __future__ import annotations

import torch
from torch import Tensor

from manifoldgd import ranks
from manifoldgd.dataset import Split
from manifoldgd.embeddings import Embedding
from manifoldgd.progress import progress_bar
from manifoldgd.students import Classifier


def embed(network: Classifier | Embedding, split: Split, *, progress: bool = False) -> Tensor:
    """Embeddings ``[N, E]`` float32 of all images of a split, on the CPU of every rank.

    Images are read as many at a time as the network sees at once, so the numbers are those of one process.

    Args:
        network: what sees the images.
        split: ``N`` images; their labels are not looked at.
        progress: whether to show a bar, of this rank's part.
    """
    own = ranks.share(list(torch.arange(len(split)).split(network.at_once)))
    with progress_bar(f"embed {len(split):,} images", len(own), enabled=progress) as advance:
        found = []
        for positions in own:
            found.append(network.embed(split.load(positions)))
            advance()
    return torch.cat(ranks.together(found))
