"""README cards of distilled sets and priors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manifoldgd.data.imagenet import readable


def set_card(dataset: str, class_names: Sequence[str], ipc: int, facts: Mapping[str, Any]) -> str:
    """The README.md of a distilled set: what it is, how it was made, how to read it.

    Its head tells Hugging Face's ``load_dataset`` that all images are one split, whatever classes are called: it takes
    folders named *train* or *test tube* for splits otherwise.
    """
    return f"""---
pretty_name: {json.dumps(f"{dataset}, distilled to {ipc} images a class", ensure_ascii=False)}
task_categories: [image-classification]
size_categories: [{size_category(ipc * len(class_names))}]
configs:
- config_name: default
  data_files:
  - split: train
    path: "*/*.png"
  drop_labels: false
---
# {dataset}, {ipc} images a class

A set of {ipc * len(class_names)} images in {len(class_names)} classes that stands in for the training split of
{dataset}. Method: {facts.get("method", "unknown")}. Seed: {facts.get("seed")}.{_commit(facts)}

Layout: `<class name>/<rank>.png`. `manifest.json` holds the class list, the labels of the prior, the resolved
configuration, hashes of all inputs, and for each image a hash of its pixels, its prototype and what guidance did at
each step.

{_loading(class_names)}

Classes, from label 0 on: {", ".join(readable(class_names))}

```json
{json.dumps(facts.get("config", {}), indent=2, sort_keys=True)}
```
"""


def _loading(class_names: Sequence[str]) -> str:
    """How others read the set with the labels of its classes: both libraries number folders in the order of names."""
    names = json.dumps(list(class_names), ensure_ascii=False)
    if list(class_names) == sorted(class_names):
        return """```python
from datasets import load_dataset
dataset = load_dataset("FOLDER", split="train")  # image, label: a ClassLabel

from torchvision.datasets import ImageFolder
dataset = ImageFolder("FOLDER")
```"""
    return f"""The labels of its classes do not follow their names, by which these libraries number them unless told:

```python
from datasets import ClassLabel, Features, Image, load_dataset
names = {names}
features = Features({{"image": Image(), "label": ClassLabel(names=names)}})
dataset = load_dataset("FOLDER", split="train", features=features)

from torchvision.datasets import ImageFolder
names = {names}
dataset = ImageFolder("FOLDER", target_transform=lambda label: names.index(sorted(names)[label]))
```"""


def _commit(facts: Mapping[str, Any]) -> str:
    commit = facts.get("prior_revision")
    return f"\nThe prior is commit {commit} of its repository." if commit else ""


def size_category(images: int) -> str:
    """As the Hugging Face hub names sizes."""
    named = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
    return next((name for bound, name in named.items() if images < bound), "100K<n<1M")


def prior_card(facts: Mapping[str, Any]) -> str:
    """The README.md of a trained prior."""
    seconds, path = facts["seconds"], facts["recipe"]["denoiser"].get("path", "diffusion")
    predicts, sampler = {
        "diffusion": ("the noise of a diffusion (DDPM)", "`sampler=ddpm` or `ddim`"),
        "flow": (
            "the velocity, noise less image, of a flow along straight paths, times drawn uniformly in training",
            "`sampler=euler`, which `prior=FOLDER` chooses by itself; diffusers' own pipeline of DiT draws no flows",
        ),
    }[path]
    return f"""# Latent {path} prior: {facts["dataset"]}

Class-conditional DiT on the latents of a small autoencoder, trained from scratch on the training split of
{facts["dataset"]} ({facts["train_images"]:,} images, {facts["num_classes"]} classes; the test split was never seen).
Half precision, diffusers format: `transformer/`, `vae/`, `scheduler/`.

| | |
|---|---|
| predicts | {predicts} |
| sampler | {sampler} |
| parameters | autoencoder {facts["parameters"]["autoencoder"]:,}, denoiser {facts["parameters"]["denoiser"]:,} |
| latents | {facts["latent_shape"]} |
| training steps | autoencoder {facts["steps"]["autoencoder"]:,}, denoiser {facts["steps"]["denoiser"]:,} |
| training seconds | autoencoder {seconds["autoencoder"]:,.0f}, denoiser {seconds["denoiser"]:,.0f} |
| hardware | {facts["hardware"]} |
| seed | {facts["seed"]} |
| recommended CFG scale | {facts["cfg_scale"]} |
| unguided samples judged | {facts["judge"]["samples"]} |
| recognised by a classifier of real images | {100 * facts["judge"]["recognised"]:.1f} % |
| that classifier on real test images | {100 * facts["judge"]["classifier_test_accuracy"]:.1f} % |
| Fréchet distance of the samples to the test images | {facts["judge"]["frechet_distance_to_test"]:.2f} |
| Fréchet distance of as many training images to them | {facts["judge"]["frechet_distance_of_train"]:.2f} |

The Fréchet distances are between embeddings of that classifier, not Inception's: compare them with each other only.

![samples](samples.png)

Unguided samples, one row a class. Made by `manifoldgd prior`; the recipe is in `manifoldgd.json`.
"""
