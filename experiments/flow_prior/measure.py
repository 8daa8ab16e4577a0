"""Flow against diffusion: priors of both paths, sets of both, seed by seed.

``python experiments/flow_prior/measure.py`` makes what is missing and writes ``results.csv`` anew after every row. Both
priors of a seed have the bundled prior's autoencoder, and share network, first weights, latents, order of images, steps
and so, but for the load of the machine, training time. The sets that they make differ in nothing but the prior and the
sampler that goes with it; ``ddim`` beside DDPM tells the two apart, because Euler's step is DDIM's.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import manifoldgd as mgd
from manifoldgd.cli.compose import compose
from manifoldgd.cli.setup import recipe_of
from manifoldgd.dataset import ImageDataset
from manifoldgd.files import atomic_path
from manifoldgd.machine import Machine
from manifoldgd.pipeline.prior import judge
from manifoldgd.priors.denoiser import DenoiserTraining
from manifoldgd.priors.fit import fit
from manifoldgd.priors.loading import CARD
from manifoldgd.priors.training import TRAINING, DenoiserRecipe, denoiser_training, write_prior

HOME = Path(__file__).parent
STEPS = {"digits": 400, "fashion_mnist": 300}  # of the denoiser: a fifteenth of those of the bundled priors'
JUDGED = 500  # unguided samples
SAMPLERS = {"diffusion": ("ddpm", "ddim"), "flow": ("euler",)}


def train(folder: Path, dataset: ImageDataset, path: Any, seed: int, machine: Machine, cache: Path) -> dict[str, Any]:
    """The card of a prior on the bundled autoencoder, trained and judged now if it is not there."""
    if (folder / CARD).is_file():
        return json.loads((folder / CARD).read_text())
    recipe: DenoiserRecipe = recipe_of(compose([f"dataset={dataset.name}"]).values)["denoiser"]
    recipe = replace(recipe, path=path, steps=STEPS[dataset.name])
    given = mgd.load_prior(dataset.name)
    latents = torch.cat(
        [given.encode(dataset.train.load(part)) for part in torch.arange(len(dataset.train)).split(256)]
    )
    module: DenoiserTraining = denoiser_training(dataset, latents, dataset.train.labels, recipe, seed)
    begun = time.process_time()
    numbers: dict[str, Any] = {"batch_size": recipe.batch_size, "steps": recipe.steps, "seed": seed}
    trainer = machine.trainer()
    fitted = fit(module, folder=folder / TRAINING / "denoiser", num_items=len(latents), **numbers, trainer=trainer)
    cpu_seconds = time.process_time() - begun
    write_prior(folder, given.autoencoder, module.average.module.eval(), dataset.class_names, path)
    prior = mgd.load_prior("folder", f"prior.path={folder}", f"prior.cfg_scale={given.cfg_scale}")
    facts = {
        "dataset": dataset.name,
        "train_images": len(dataset.train),
        "num_classes": len(dataset.class_names),
        "cfg_scale": given.cfg_scale,
        "latent_shape": list(prior.latent_shape),
        "steps": {"autoencoder": 0, "denoiser": fitted.steps},
        "seconds": {"autoencoder": 0, "denoiser": cpu_seconds},
        "hardware": "",
        "seed": seed,
        "recipe": {"denoiser": vars(recipe)},
        "parameters": {"autoencoder": 0, "denoiser": sum(each.numel() for each in prior.network.parameters())},
    }
    return judge(folder, prior, dataset, facts, samples=JUDGED, seed=seed, machine=machine, cache=cache)


def main() -> None:
    """Train, sample, judge what is missing, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=sorted(STEPS), choices=sorted(STEPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("outputs/flow_prior"), help="of priors and sets")
    parser.add_argument("--record", type=Path, default=HOME, help="of results.csv")
    asked = parser.parse_args()
    machine, cache = mgd.build("machine=cpu", "machine.threads=1"), asked.output / "cache"
    machine.prepare()
    rows: list[dict[str, Any]] = []
    for name in asked.datasets:
        dataset = mgd.load_dataset(name)
        for seed in range(asked.seeds):
            for path, samplers in SAMPLERS.items():
                folder = asked.output / name / f"{path}-seed{seed}"
                card = train(folder, dataset, path, seed, machine, cache)
                row = {
                    "dataset": name,
                    "path": path,
                    "seed": seed,
                    "train_cpu_seconds": card["seconds"]["denoiser"],
                    "recognised": card["judge"]["recognised"],
                    "frechet_distance": card["judge"]["frechet_distance_to_test"],
                }
                for sampler in samplers:
                    for guidance in ("none", "mode"):
                        result = asked.output / name / "sets" / f"{folder.name}-{sampler}-{guidance}"
                        words = [f"dataset={name}", f"prior={folder}", f"sampler={sampler}", f"seed={seed}"]
                        words += [f"guidance={guidance}", f"ipc={asked.ipc}", "measures=false", "logger=none"]
                        words += ["machine=cpu", "machine.threads=1", f"output={result}", f"cache={cache}"]
                        accuracy = mgd.run(mgd.compose(words)).accuracy.mean
                        rows.append({**row, "sampler": sampler, "guidance": guidance, "accuracy": accuracy})
                        write_record(asked.record, rows)


def write_record(record: Path, rows: list[dict[str, Any]]) -> None:
    """``results.csv``, a row a set."""
    with atomic_path(record / "results.csv") as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)


if __name__ == "__main__":
    main()
