"""Small stand-ins for what takes long: priors with random weights, an embedding network trained for a moment."""

import functools
import json

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel

from manifoldgd.data import digits
from manifoldgd.diffusion.start import PURE_NOISE
from manifoldgd.distill.module import DistillModule
from manifoldgd.machine import Machine
from manifoldgd.pipeline import classifiers
from manifoldgd.pipeline.sets import sample_set
from manifoldgd.priors.autoencoder import build_autoencoder
from manifoldgd.priors.denoiser import build_transformer
from manifoldgd.priors.training import write_prior
from manifoldgd.students import recipe as recipes

IMAGENET_LIKE = (
    "tench, Tinca tinca",
    "goldfish, Carassius auratus",
    "great white shark, white shark, man-eater",
    "crane",
    "crane",
    "English springer, English springer spaniel",
    "cassette player",
    "chain saw, chainsaw",
    "church, church building",
    "French horn, horn",
    "garbage truck, dustcart",
    "gas pump, gasoline pump, petrol pump, island dispenser",
)
# As facebook/DiT-XL-2-256 ships it.
DIT_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.12.0.dev0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}


def cpu(**changes):
    numbers = {
        "accelerator": "cpu",
        "precision": "32-true",
        "student_precision": "32-true",
        "batch_size": 64,
        "threads": 1,
        "progress": False,
        "devices": 1,
        "nodes": 1,
        "compile": False,
    }
    machine = Machine(**numbers | changes)
    machine.prepare()
    return machine


def randomise(network, seed):
    """Weights that make every input matter, biases included."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in network.parameters():
            each.copy_(torch.randn(each.shape, generator=source) * 0.3 / max(1, each[0].numel()) ** 0.5)
    return network


def write_tiny_prior(folder, *, class_names=tuple("0123456789"), seed=0, image_channels=1):
    vae = build_autoencoder(
        image_channels=image_channels, image_size=8, block_channels=[8, 8], latent_channels=2, layers_per_block=1
    )
    vae = randomise(vae, seed)
    vae.register_to_config(scaling_factor=1.5)
    dit = build_transformer(
        latent_shape=(2, 4, 4), num_classes=len(class_names), width=8, heads=2, layers=1, patch_size=2
    )
    write_prior(folder, vae, randomise(dit, seed + 1), class_names)
    return folder


def write_dit_lookalike(folder):
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=len(IMAGENET_LIKE),
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
    )
    randomise(transformer, 3).save_pretrained(folder / "transformer", safe_serialization=False)
    randomise(vae, 4).save_pretrained(folder / "vae", safe_serialization=False)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(DIT_SCHEDULER))
    index = {"_class_name": "DiTPipeline", "id2label": {str(i): name for i, name in enumerate(IMAGENET_LIKE)}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def quick_classifier(cache):
    recipe = recipes.Recipe(**vars(recipes.STANDARD) | {"images_shown": 2000, "width": 8})
    thorough = classifiers.train_classifier
    classifiers.train_classifier = functools.partial(thorough, recipe=recipe)
    try:
        classifiers.embedding_network(digits(train_per_class=None, validation=None), cpu(), cache)
    finally:
        classifiers.train_classifier = thorough


def distil(
    folder,
    dataset,
    prior,
    sampler,
    guidance,
    targets,
    energy_of=None,
    *,
    ipc,
    seed,
    machine,
    facts,
    replica=0,
    start=PURE_NOISE,
):
    """A set from a module of these parts, in which nothing is searched for or computed before."""
    numbers = {"image_size": dataset.image_shape[1:], "seed": seed, "at_once": machine.batch_size, "start": start}
    module = DistillModule(prior, sampler, guidance, targets, energy_of, **numbers)
    return sample_set(folder, dataset, module, ipc=ipc, machine=machine, facts=facts, replica=replica)
