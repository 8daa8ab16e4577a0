"""What ranks do in the tests: functions of a module, as new interpreters find them."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from manifoldgd import ranks
from manifoldgd.errors import RunError, UserError

SLOW = 60.0  # seconds that nobody waits


def several():
    ranks.connect(devices=2, nodes=1)


def meet(folder):
    """All that ranks say to each other, as a file of each."""
    several()
    place = Path(folder)
    own = torch.full((2, 1), float(ranks.rank()))
    shares = ranks.share(list(range(5)))
    latents = [each.flatten().tolist() for each in ranks.gathered(own, [2, 2])]
    said = ranks.told("first" if ranks.rank() == 0 else "second")
    features = ranks.together([torch.full((1 + part,), float(part)) for part in shares])
    made = ranks.by_first(lambda: sorted(file.name for file in place.glob("made*")) or (place / "made").touch())
    number = ranks.rank()
    ranks.leave()
    (place / str(number)).write_text(repr((shares, latents, said, made, ranks.rank(), ranks.count())))
    assert [each.tolist() for each in features] == [(1 + part) * [float(part)] for part in range(5)]


def fail(how):
    several()
    if ranks.rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the second is told of it", "key") if how == "input" else RunError("the second diverged")
    ranks.barrier()


def wait(folder):
    several()
    (Path(folder) / f"{ranks.rank()}-{os.getpid()}").touch()
    if ranks.rank() == 0:
        ranks.barrier()
    else:
        time.sleep(SLOW)


def distil(folder, prior, die_after=None):
    """A set of digits; the second rank may be killed after so many of its images."""
    from distill_parts import make, manifold
    from tiny import cpu

    from manifoldgd.data import digits
    from manifoldgd.priors import load_prior
    from manifoldgd.store.sets import SetWriter

    saved, save = [], SetWriter.save

    def mortal(writer, *args, **facts):
        save(writer, *args, **facts)
        saved.append(args)
        if ranks.rank() == 1 and len(saved) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    SetWriter.save = mortal
    machine = cpu(devices=2, batch_size=3)
    loaded = load_prior(path=str(prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    dataset = digits(train_per_class=12, validation=None)
    try:
        make(Path(folder), dataset, loaded, manifold(), machine=machine)
    finally:
        SetWriter.save = save


def features(folder, prior, devices=2):
    """What a set is measured by and classes are clustered in: embeddings and features, the first rank's as a file."""
    from tiny import cpu

    from manifoldgd.artifacts import DistilledSet
    from manifoldgd.data import digits
    from manifoldgd.pipeline import evaluation, latents, spaces
    from manifoldgd.pipeline.embedded import embed
    from manifoldgd.priors import load_prior
    from manifoldgd.prototypes import DenoiserFeatures, PrincipalComponents
    from manifoldgd.students import train_classifier
    from manifoldgd.students.recipe import STANDARD

    place = Path(folder)
    machine = cpu(devices=devices, batch_size=7)
    machine.prepare()
    dataset = digits(train_per_class=12, validation=None)
    prior = load_prior(path=str(prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    recipe = replace(STANDARD, images_shown=200)
    numbers = {"num_classes": 10, "mean": dataset.mean, "std": dataset.std, "seed": 0, "flip": False, "recipe": recipe}
    network = train_classifier(dataset.train.images(), dataset.train.labels, **numbers, progress=False)
    held = {"embedded": embed(network, dataset.train)}
    encoded, _ = latents.encode(dataset, prior, machine, place / "cache")
    asked = {"denoiser": DenoiserFeatures(layer=0.5, timestep=50), "components": PrincipalComponents(components=3)}
    for name, space in asked.items():
        table = spaces.features_of(space, dataset, prior, encoded, machine, place / "cache")
        held[name] = ranks.by_first(table.load)
    images, labels = dataset.test.load(torch.arange(40)), dataset.test.labels[:40]
    made = DistilledSet(images, labels, torch.arange(40), dataset.class_names)
    sides = evaluation.Sides.seen_by(network, made, dataset)
    held |= {"synthetic": sides.synthetic, "real": sides.real}
    if ranks.rank() == 0:
        torch.save(held, place / "features.pt")
    ranks.leave()


def train(folder, devices=2, die_at=None):
    """A tiny prior of digits; the second rank may be killed at a step of the denoiser."""
    from prior_parts import AUTOENCODER, DENOISER
    from tiny import cpu

    from manifoldgd.data import digits
    from manifoldgd.priors import denoiser
    from manifoldgd.priors.training import train_prior

    step = denoiser.DenoiserTraining.training_step

    def mortal(module, batch):
        if ranks.rank() == 1 and batch[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, batch)

    denoiser.DenoiserTraining.training_step = mortal
    machine, dataset = cpu(devices=devices), digits(train_per_class=5, validation=None)
    machine.prepare()
    numbers = {"autoencoder": AUTOENCODER, "denoiser": DENOISER, "seed": 0, "trainer": machine.trainer()}
    train_prior(dataset, Path(folder), **numbers)
    ranks.leave()
    denoiser.DenoiserTraining.training_step = step
