"""Time and peak memory by stage where classes are many, with a look-alike of ImageNet and of DiT.

``python experiments/benchmarks/many_classes.py --classes 100 1000`` writes small JPEGs in ImageNet's layout and
a tiny transformer with random weights in DiT's, and goes from the folder to a measured set, each number of classes in a
process of its own. Speed per image says nothing here, as images and networks are tiny; what grows with classes does.
Linux only: between stages the kernel is asked to forget the process's largest memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
from PIL import Image

import manifoldgd as mgd
from manifoldgd.data.imagenet import names_by_wnid
from manifoldgd.randomness import generator
from manifoldgd.system import peak_memory

TRAIN, TEST, SIDE = 8, 2, 8  # images of a class, and their side in pixels


def write_images(folder: Path, wnids: list[str]) -> None:
    """``folder/train`` and ``folder/val``, a folder a class, of JPEGs of different noise."""
    draws = generator("many classes")
    for split, count in (("train", TRAIN), ("val", TEST)):
        for wnid in wnids:
            place = folder / split / wnid
            place.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=draws)
                Image.fromarray(pixels.numpy()).save(place / f"{number}.JPEG")


def write_prior(folder: Path) -> None:
    """A DiT of one block and an autoencoder that halves sides, both with random weights, told ImageNet's classes."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=SIDE // 2,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    transformer.save_pretrained(folder / "transformer")
    autoencoder.save_pretrained(folder / "vae")
    diffusers.DDIMScheduler(clip_sample=False, beta_schedule="linear").save_pretrained(folder / "scheduler")
    labels = {str(label): name for label, name in enumerate(names_by_wnid().values())}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", "id2label": labels}))


def measure(classes: int, folder: Path) -> Iterator[dict[str, float | int | str]]:
    """A row a stage."""
    rows: list[dict[str, float | int | str]] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        rows.append({"classes": classes, "stage": name, **spent, "peak_gib": peak_memory() / 2**30})

    images, cache = folder / "imagenet", folder / "cache"
    wnids = list(names_by_wnid())[:classes]
    write_images(images, wnids)
    write_prior(folder / "dit")
    keys = [f"dataset.folder={images}", f"dataset.image_size={SIDE}", f"cache={cache}"]
    keys += [f"dataset.expected_counts={{train: {TRAIN * classes}, test: {TEST * classes}}}"]
    keys += [f"dataset.classes=[{','.join(wnids)}]"] if classes < 1000 else []  # parsing so many takes seconds
    machine = mgd.build("machine=cpu", "machine.threads=1", "machine.progress=false")
    machine.prepare()
    with stage("open"):
        mgd.load_dataset("imagenet", *keys)
    with stage("open again"):
        dataset = mgd.load_dataset("imagenet", *keys)
    prior = mgd.load_prior("folder", f"prior.path={folder / 'dit'}")
    with stage("encode"):
        latents = mgd.encode(dataset, prior, machine=machine, cache=cache)
    with stage("cluster"):
        prototypes = mgd.cluster(latents, mgd.build("clusterer=divisive"), ipc=1, machine=machine, cache=cache)
    with stage("sample"):
        guidance = mgd.build(
            "guidance=manifold", "guidance.neighbourhood=8", "guidance.neighbours=5", "guidance.tangent_dim=2"
        )
        made = mgd.synthesise(
            dataset, prior, prototypes, guidance=guidance, folder=folder / "set", machine=machine, cache=cache
        )
    changes = ("student.protocol.epochs=3", "student.protocol.evaluations=1")
    student = mgd.build("student=convnet3", "student/protocol=hard_small", *changes)
    numbers = {"student": student, "seeds": [0], "machine": machine, "cache": cache}
    with stage("a student, 3 epochs"):
        mgd.evaluate(made, dataset, folder=folder / "student", **numbers)
    with stage("measures, and the network that they take"):
        mgd.evaluate(made, dataset, folder=folder / "measured", measures=True, **numbers)
    yield from rows


def main() -> None:
    """Measure each number of classes in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--one", action="store_true", help="measure the first here, and print its rows")
    asked = parser.parse_args()
    for classes in asked.classes:
        if asked.one:
            with tempfile.TemporaryDirectory() as folder:
                for row in measure(classes, Path(folder)):
                    print(json.dumps(row), flush=True)
            return
        subprocess.run([sys.executable, __file__, "--one", "--classes", str(classes)], check=True)


if __name__ == "__main__":
    main()
