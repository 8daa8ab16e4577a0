"""Priors that are told words: diffusers' own pipelines are called on the same latents, and a set is made of each."""

import json

import diffusers
import numpy as np
import pytest
import torch
from command import manifoldgd
from PIL import Image
from text_priors import KINDS, stable_diffusion

from manifoldgd.diffusion import ClassifierFreeGuidance
from manifoldgd.errors import UserError
from manifoldgd.priors import load_prior

SCALE = 3.0


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "prior"
    KINDS[request.param](folder)
    return request.param, folder


def load(folder, **changes):
    numbers = {"autoencoder": None, "cfg_scale": None, "cfg_channels": None}
    return load_prior(path=str(folder), **numbers | changes)


def their_calls(folder, latents, prompt, negative):
    """Timesteps, inputs and guided predictions of the first step of diffusers' pipeline, as its scheduler gets them."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    without = {"text_encoder_3": None, "tokenizer_3": None} if name == "StableDiffusion3Pipeline" else {}
    options = {"local_files_only": True, "low_cpu_mem_usage": False, **without}
    pipeline = getattr(diffusers, name).from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    seen = []
    step = pipeline.scheduler.step

    def watched(output, timestep, sample, **kwargs):
        seen.append((timestep, sample.clone(), output.clone()))
        return step(output, timestep, sample, **kwargs)

    pipeline.scheduler.step = watched
    words = {} if negative is None else {"negative_prompt": negative}
    if "PixArt" in name:
        words |= {"use_resolution_binning": False, "clean_caption": False}
    numbers = {"num_inference_steps": 2, "guidance_scale": SCALE, "height": 8, "width": 8}
    pipeline(prompt, latents=latents, output_type="latent", **numbers, **words)
    return seen


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of DPMSolver's tables
@pytest.mark.parametrize("negative", [None, "bad"])
def test_the_guided_prediction_is_that_of_diffusers_pipeline(kind, negative):
    name, folder = kind
    prior = load(folder, negative_prompt=negative)
    (label,) = prior.text.bind(["zero"], ["zero"])
    x = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    timestep, sample, expected = their_calls(folder, x, "a photo of a zero", negative)[0]
    guided = ClassifierFreeGuidance(prior.denoise, SCALE, prior.null_class, None)
    told = torch.full((1,), float(timestep)) if prior.prediction == "flow" else torch.full((1,), int(timestep))
    found = guided(sample, told, torch.tensor([label]))[:, : prior.latent_channels]
    torch.testing.assert_close(found, expected[:, : prior.latent_channels], rtol=1e-3, atol=1e-4)
    assert prior.prediction == {"stable_diffusion_2": "v_prediction", "stable_diffusion_3": "flow"}.get(name, "epsilon")
    assert prior.variance == ("learned_range" if name == "pixart" else "fixed_small")


# Between them every prior is guided, towards prototypes and along each kind of tangent space.
TANGENTS = ["guidance.neighbourhood=4", "guidance.neighbours=3", "guidance.tangent_dim=1"]
GUIDANCES = {
    "stable_diffusion": ["guidance=mode"],
    "stable_diffusion_2": ["guidance=manifold", "guidance.estimator=clean", *TANGENTS],
    "stable_diffusion_xl": ["guidance=posterior", "guidance.tangent_scale=0.1", *TANGENTS],
    "stable_diffusion_3": ["guidance=manifold", "guidance.estimator=posterior", *TANGENTS],
    "pixart": ["guidance=manifold_released"],
}


def test_each_makes_a_guided_set(kind, tmp_path, capsys):
    """A flow is sampled by Euler unasked."""
    name, folder = kind
    words = [f"prior={folder}", "sampler.steps=2", "ipc=2", *GUIDANCES[name], "guidance.t_stop=0"]
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("zero", "one"):
            place = tmp_path / "images" / split / label
            place.mkdir(parents=True)
            for number in range(6):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{split}{number}{label}.png")
    more = [
        "dataset=image_folder",
        f"dataset.folder={tmp_path / 'images'}",
        "dataset.image_size=8",
        f"output={tmp_path / 'set'}",
    ]
    more += [f"cache={tmp_path / 'cache'}", "machine=cpu", "machine.threads=1", "machine.progress=false"]
    several = 'prior.prompt={zero: ["a zero", "one zero"], one: "a one"}'
    assert manifoldgd("distill", *words, *more, several) == 0, capsys.readouterr().err
    manifest = json.loads((tmp_path / "set" / "set" / "manifest.json").read_text())
    assert ("Euler" in manifest["config"]["sampler"]["_target_"]) == (name == "stable_diffusion_3")
    for image in manifest["images"]:  # it was pulled: by how much of the noise of a step, and what the projection kept
        assert sum(value or 0 for value in image["guidance"]["ratio"]) > 0
    assert manifest["prompts"] == {"one": ["a one"], "zero": ["a zero", "one zero"]}
    assert sorted(each.name for each in (tmp_path / "set" / "set").rglob("*.png")) == [
        "00000.png",
        "00000.png",
        "00001.png",
        "00001.png",
    ]


def test_prompts_are_rows_and_embedded_once(tmp_path, monkeypatch):
    stable_diffusion(tmp_path / "prior")
    prior = load(tmp_path / "prior", prompt=["a {class}", "one {class}"])
    assert prior.text.bind(["x", "y"], ["cat", "dog"]) == [1, 3]
    assert prior.text.texts == {"x": ("a cat", "one cat"), "y": ("a dog", "one dog")}
    table = prior.text.table["tokens"]
    assert len(table) == 5
    assert prior.text.bind(["x", "y"], ["cat", "dog"]) == [1, 3]
    assert prior.text.table["tokens"] is table
    for prompt, message in (
        ("a photo", r"^prompt: expected \{class\} in each text, got 'a photo'"),
        ([], r"^prompt: expected a text"),
        ({"x": "a cat"}, r"^prompt: no text for class 'y'"),
    ):
        with pytest.raises(UserError, match=message):
            load(tmp_path / "prior", prompt=prompt).text.bind(["x", "y"], ["cat", "dog"])
    with pytest.raises(UserError, match="told words"):
        _ = prior.num_blocks
    other = load(tmp_path / "prior")
    assert other.key == prior.key
    weights = tmp_path / "prior" / "text_encoder" / "config.json"
    weights.write_text(weights.read_text() + "\n")
    assert load(tmp_path / "prior").key != prior.key


def test_a_prior_that_is_told_labels_takes_no_words(tiny_prior):
    with pytest.raises(UserError, match=r"^prompt: expected null: .* is told a label"):
        load(tiny_prior, prompt="a {class}")


def test_kinds_that_are_not_known_are_named(tmp_path):
    stable_diffusion(tmp_path / "prior")
    file = tmp_path / "prior" / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match=r"^path: .* is of the kind FluxPipeline, expected one of DiTPipeline, Stable"):
        load(tmp_path / "prior")
