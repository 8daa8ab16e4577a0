"""The README.md of an export: what the set is and is for, what it was made with, under which terms, how it did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manifoldgd import __version__
from manifoldgd.artifacts import DistilledSet
from manifoldgd.data.imagenet import names_by_wnid, readable
from manifoldgd.dataset import judging_split
from manifoldgd.report.card import size_category
from manifoldgd.store.set_sources import ELSEWHERE

if TYPE_CHECKING:
    from manifoldgd.export.folder import Judgement

UNKNOWN = "unknown"
IMAGENET_USE = "for non-commercial research and educational purposes only"
# Terms as the publishers state them, by what a dataset's reader is called: the Hub's word, and the sentence. Those that
# state none (CIFAR) are missing.
DATA_TERMS = {
    "digits": ("cc-by-4.0", "CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak)"),
    "fashion_mnist": ("mit", "MIT (copyright 2017 Zalando SE)"),
    "svhn": (UNKNOWN, "custom, non-commercial (as the Hub has it, ufldl-stanford/svhn)"),
    "imagenet": (UNKNOWN, f"ImageNet's terms of access: {IMAGENET_USE}"),
    "tiny_imagenet": (UNKNOWN, f"not known here; its images are of ImageNet, whose terms of access say {IMAGENET_USE}"),
}
OPEN_RAIL_M = ("creativeml-openrail-m", "CreativeML OpenRAIL-M (Stable Diffusion 1)")
PRIOR_TERMS = {
    "bundled:": ("apache-2.0", "Apache-2.0, as part of this package"),
    "facebook/DiT-XL-2-": ("cc-by-nc-4.0", "CC BY-NC 4.0 (facebookresearch/DiT)"),
    "CompVis/stable-diffusion-v1-": OPEN_RAIL_M,
    "runwayml/stable-diffusion-v1-5": OPEN_RAIL_M,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": OPEN_RAIL_M,
}
HOW_TO_LOAD = {
    "hf": 'from datasets import load_dataset\n\ndataset = load_dataset("{place}", split="train")  # image, label',
    "parquet": 'from datasets import load_dataset\n\ndataset = load_dataset("{place}", split="train")  # image, label',
    "webdataset": (
        'import webdataset\n\ndataset = webdataset.WebDataset("train-000000.tar", shardshuffle=False)'
        '.decode("pil").to_tuple("png", "cls")'
    ),
    "npz": 'import numpy\n\nheld = numpy.load("train.npz")  # images uint8, labels, class_names',
    "zip": (
        "from torchvision.datasets import ImageFolder  # after unpacking; labels follow the folders' names there,\n"
        'dataset = ImageFolder("train")  # and classes.json has them in the order of ours'
    ),
}
CLASSES_SHOWN = 100


@dataclass(frozen=True)
class Facts:
    """All that a card and metadata say of a set."""

    dataset: str  # whose training split it stands in for, as far as it is known
    method: str
    seed: int | None
    ipc: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    config: Mapping[str, Any]
    real: bool  # whether its images are images of the dataset
    made_here: bool
    prior: str | None  # as the configuration names it; None: none took part, or it is not known
    revision: str | None  # of the prior's repository
    data_terms: str
    prior_terms: str
    license: str  # the Hub's word
    judged: Sequence[Judgement]
    form: str
    home: str | None  # owner/name on the Hub
    fingerprint: str

    @classmethod
    def of(
        cls, made: DistilledSet, judged: Sequence[Judgement], form: str, license: str | None, home: str | None
    ) -> Facts:
        """What the manifest and the records of a set say."""
        manifest = made.manifest
        config = manifest.get("config", {})
        data = config.get("dataset") or {}
        reader = str(data.get("_target_", "")).rpartition(".")[2]
        known = manifest.get("dataset") or (judged[0]["dataset"] if judged else None) or data.get("name") or reader
        prior = (config.get("prior") or {}).get("path")
        kind = next((each for each in (reader, str(known)) if each in DATA_TERMS), reader)
        if kind not in DATA_TERMS and set(made.class_names) <= names_by_wnid().keys():
            kind = "imagenet"  # all its subsets are read from folders that are called by ImageNet's ids
        data_word, data_terms = DATA_TERMS.get(kind, (UNKNOWN, "not known here; see where the data came from"))
        found = next((terms for start, terms in PRIOR_TERMS.items() if prior and prior.startswith(start)), None)
        prior_word, prior_terms = found or (
            UNKNOWN,
            "not known here; see where it came from" if prior else "none took part",
        )
        # A set falls under what its images come from; of two terms the narrower cannot be told by a program.
        words = {data_word} | ({prior_word} if prior and prior_word != "apache-2.0" else set())
        return cls(
            dataset=str(known) or "images",
            method=str(manifest.get("method", UNKNOWN)),
            seed=manifest.get("seed"),
            ipc=manifest["ipc"],
            class_names=made.class_names,
            image_shape=tuple(made.images.shape[1:]),
            config=config,
            real=config.get("source") not in ("diffusion", ELSEWHERE, None) and not config.get("reconstruct"),
            made_here=config.get("source") != ELSEWHERE,
            prior=prior,
            revision=manifest.get("prior_revision"),
            data_terms=data_terms,
            prior_terms=prior_terms,
            license=license or (words.pop() if len(words) == 1 else UNKNOWN),
            judged=judged,
            form=form,
            home=home,
            fingerprint=made.fingerprint,
        )

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset}, distilled to {_images(self.ipc)} a class"

    @property
    def count(self) -> int:
        """Images in all."""
        return self.ipc * len(self.class_names)

    @property
    def name(self) -> str:
        """For file systems and metadata."""
        return re.sub(r"[^\w.-]+", "-", f"{self.dataset}-{self.method}-ipc{self.ipc}").strip("-")

    @property
    def origin(self) -> str:
        """How the set came to be, in a sentence or two."""
        stands = f"{self.count} images in {len(self.class_names)} classes"
        if not self.made_here:
            return f"{stands}, made elsewhere and read from {self.method}."
        if self.real:
            return f"{stands}: real images of the training split of {self.dataset}, chosen by {self.method}."
        seed = "" if self.seed is None else f", distillation seed {self.seed}"
        return f"{stands} that stand in for the training split of {self.dataset}. Method: {self.method}{seed}."


def card(facts: Facts) -> str:
    """The text of the README.md."""
    channels, height, width = facts.image_shape
    kind = "grey" if channels == 1 else "RGB"
    place = facts.home or "FOLDER"
    return f"""---
{_head(facts)}
---
# {facts.title}

{facts.origin} {width}x{height} pixels, {kind}, stored without loss. Fingerprint of the pixels: `{facts.fingerprint}`.

```python
{HOW_TO_LOAD[facts.form].format(place=place)}
```

`import manifoldgd; manifoldgd.load_set("FOLDER")` reads it as it was, and
`manifoldgd evaluate set=FOLDER dataset=...` judges it again. `croissant.json` is Croissant metadata, `provenance.json`
holds the configuration and hashes of all inputs.

## Intended use

Research on learning from little data: training small classifiers from scratch, comparing ways of distilling datasets.
{_limits(facts)}

## Terms

| | | terms |
| --- | --- | --- |
| data | {facts.dataset} | {facts.data_terms} |
| prior | {facts.prior or "none"}{f", commit {facts.revision}" if facts.revision else ""} | {facts.prior_terms} |
| this set | | {facts.license} |

## How it was judged

{_judged(facts)}

## Classes

{_classes(facts)}

## How it was made

```json
{json.dumps(facts.config, indent=2, sort_keys=True)}
```

Exported by [manifoldgd](https://arxiv.org/abs/2602.23295) {__version__}.
"""


def _head(facts: Facts) -> str:
    """The YAML that the Hub reads; every value is JSON, which is YAML too."""
    paths = {"hf": "data/train-*.parquet", "parquet": "*.parquet", "webdataset": "*.tar"}
    lines: dict[str, Any] = {
        "pretty_name": facts.title,
        "license": facts.license,
        "task_categories": ["image-classification"],
        "size_categories": [size_category(facts.count)],
        "tags": ["dataset-distillation", *([] if facts.real else ["synthetic"])],
    }
    if facts.form in paths:
        files = [{"split": "train", "path": paths[facts.form]}]
        lines["configs"] = [{"config_name": "default", "data_files": files}]
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in lines.items())


def _limits(facts: Facts) -> str:
    told = "Not meant for deployed recognition: what is rare in the data is missing here, what is skewed stays so."
    if facts.real:
        return f"{told}\nIts images are images of {facts.dataset}: whatever holds for those holds for these."
    return f"{told}\nSynthetic images may come close to training images; nobody checked that they do not."


def _judged(facts: Facts) -> str:
    if not facts.judged:
        return "Not judged yet, or the records were not beside the set when it was exported."
    rows = [
        "| student, trained from scratch on the set | labels, epochs | judged on | accuracy after the last epoch, % |",
        "| --- | --- | --- | --- |",
    ]
    for one in facts.judged:
        split = judging_split(one["dataset"])
        half = "" if one["half"] is None else f" ± {100 * one['half']:.1f}"
        students = f"{one['students']} student{'s' if one['students'] > 1 else ''}"
        leaked = one["test_images_in_train"]
        also = f", {leaked} of them show what a training image shows" if leaked else ""
        rows.append(
            f"| {one['student']} | {one['protocol']}, {one['epochs']:,} | {one['test_images']:,} {split} images of "
            f"{one['dataset']}{also} | {100 * one['accuracy']:.1f}{half} ({students}) |"
        )
    return "\n".join(
        [*rows, "", "± half the 95 % interval of the mean over the students of this one set (Student's t)."]
    )


def _classes(facts: Facts) -> str:
    names = [f"{label} {name}" for label, name in enumerate(readable(facts.class_names))]
    more = f", and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return f"By label: {', '.join(names[:CLASSES_SHOWN])}{more}."


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"
