"""Loading a prior: what is read from diffusers' files, what is refused, and the range of pixels and latents."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from tiny import IMAGENET_LIKE, randomise, write_tiny_prior

from manifoldgd.errors import UserError
from manifoldgd.priors import load_prior
from manifoldgd.priors.denoiser import build_transformer
from manifoldgd.priors.loading import only_cached
from manifoldgd.priors.prior import HELD, as_images, as_pixels, crop_to, pad_to
from manifoldgd.priors.training import write_prior


def load(path, **changes):
    return load_prior(**{"path": str(path), "autoencoder": None, "cfg_scale": None, "cfg_channels": None} | changes)


def test_a_written_prior_comes_back(tiny_prior):
    prior = load(tiny_prior)
    assert prior.class_names == tuple("0123456789")
    assert prior.null_class == 10
    assert prior.variance == "fixed_small"
    assert (prior.latent_shape, prior.image_size, prior.image_channels) == ((2, 4, 4), 8, 1)
    assert (prior.cfg_scale, prior.cfg_channels) == (1.0, 2)
    assert len(prior.schedule) == 1000
    assert float(prior.schedule.betas[0]) == pytest.approx(1e-4)
    assert float(prior.schedule.betas[-1]) == pytest.approx(0.02)
    assert prior.autoencoder.config.scaling_factor == 1.5
    assert all(not each.requires_grad for each in prior.network.parameters())
    assert not prior.autoencoder.training
    assert not prior.network.training
    assert next(prior.network.parameters()).dtype == torch.float32  # stored in half precision


def test_dit_lookalike(dit_lookalike):
    prior = load(dit_lookalike, cfg_scale=4, cfg_channels=3)
    assert prior.variance == "learned_range"
    assert prior.class_names == IMAGENET_LIKE
    assert prior.null_class == len(IMAGENET_LIKE)
    assert (prior.cfg_scale, prior.cfg_channels) == (4.0, 3)
    assert prior.latent_shape == (4, 4, 4)
    output = prior.denoise(torch.randn(2, 4, 4, 4), torch.tensor([5, 5]), torch.tensor([0, 12]))
    assert output.shape == (2, 8, 4, 4)


def test_card_gives_defaults_and_arguments_win(tiny_prior, tmp_path):
    shutil.copytree(tiny_prior, tmp_path / "p")
    (tmp_path / "p" / "manifoldgd.json").write_text(json.dumps({"cfg_scale": 1.75, "cfg_channels": 1}))
    prior = load(tmp_path / "p")
    assert (prior.cfg_scale, prior.cfg_channels) == (1.75, 1)
    prior = load(tmp_path / "p", cfg_scale=3.0, cfg_channels=2)
    assert (prior.cfg_scale, prior.cfg_channels) == (3.0, 2)
    assert load(tmp_path / "p", cfg_scale=0.0).cfg_scale == 0.0


def test_key_depends_on_the_weights_of_both_halves(tiny_prior, tmp_path):
    keys = {load(tiny_prior).key, load(write_tiny_prior(tmp_path / "other", seed=5)).key}
    vae = randomise(AutoencoderKL.from_pretrained(tiny_prior, subfolder="vae", low_cpu_mem_usage=False), 9)
    vae.save_pretrained(tmp_path / "vae_only")
    keys.add(load(tiny_prior, autoencoder=str(tmp_path / "vae_only")).key)
    assert len(keys) == 3
    shutil.copytree(tiny_prior, tmp_path / "moved")
    assert load(tmp_path / "moved").key == load(tiny_prior).key


def test_another_autoencoder_is_used(tiny_prior, tmp_path):
    vae = AutoencoderKL.from_pretrained(tiny_prior, subfolder="vae", low_cpu_mem_usage=False)
    randomise(vae, 9).register_to_config(scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae_only")
    prior = load(tiny_prior, autoencoder=str(tmp_path / "vae_only"))
    assert prior.autoencoder.config.scaling_factor == 0.5
    with pytest.raises(UserError, match=r"autoencoder: .*does not exist"):
        load(tiny_prior, autoencoder="/nowhere/at/all")


def test_encode_scales_and_decode_undoes_it(tiny_prior):
    prior = load(tiny_prior)
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    mean = prior.autoencoder.encode(images.float() / 127.5 - 1).latent_dist.mean
    latents = prior.encode(images)
    torch.testing.assert_close(latents, mean * 1.5)
    decoded = prior.autoencoder.decode(latents / 1.5).sample.clamp(-1, 1)
    assert torch.equal(prior.decode(latents, (8, 8)), ((decoded + 1) * 127.5).round().to(torch.uint8))


def test_shift_factor_is_subtracted_before_scaling(tiny_prior):
    prior = load(tiny_prior)
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    plain = prior.encode(images)
    prior.autoencoder.register_to_config(shift_factor=0.25)
    torch.testing.assert_close(prior.encode(images), plain - 0.25 * 1.5)
    shifted = prior.decode(plain - 0.25 * 1.5, (8, 8))
    prior.autoencoder.register_to_config(shift_factor=None)
    assert torch.equal(shifted, prior.decode(plain, (8, 8)))


def test_small_images_are_padded_with_black_and_cropped_back(tiny_prior):
    prior = load(tiny_prior)
    small = torch.randint(0, 256, (2, 1, 5, 7), dtype=torch.uint8)
    padded = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    padded[..., 1:6, 0:7] = small
    torch.testing.assert_close(prior.encode(small), prior.encode(padded))
    assert torch.equal(as_images(crop_to(pad_to(as_pixels(small), 8), (5, 7))), small)
    assert prior.decode(prior.encode(small), (5, 7)).shape == small.shape


def test_pixels_round_trip_exactly():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = as_pixels(every)
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert torch.equal(as_images(pixels), every)
    assert as_images(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_half_precision_pixels_are_rounded_to_the_nearest_level():
    pixels = torch.linspace(-1, 1, 4001).bfloat16()
    wanted = ((pixels.double() + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(as_images(pixels), wanted)


def test_null_class_is_the_network_s_unconditional_label(tiny_prior):
    """Guidance with scale s is linear in the two predictions; label 10 must be a valid, other row of the table."""
    prior = load(tiny_prior)
    x, t = torch.randn(1, 2, 4, 4), torch.tensor([500])
    null = prior.denoise(x, t, torch.tensor([prior.null_class]))
    assert all(not torch.allclose(null, prior.denoise(x, t, torch.tensor([label]))) for label in range(10))


@pytest.mark.parametrize(("shape", "message"), [((3, 8, 8), "1 channels.*has 3"), ((1, 9, 8), "at most 8x8.*9x8")])
def test_images_that_do_not_fit(tiny_prior, shape, message):
    with pytest.raises(UserError, match=message):
        load(tiny_prior).check_images("mine", shape)
    load(tiny_prior).check_images("mine", (1, 8, 8))


def _break(folder, what):
    if what == "scheduler":
        shutil.rmtree(folder / "scheduler")
    elif what == "index":
        (folder / "model_index.json").write_text("{")
    elif what == "weights":
        next((folder / "transformer").glob("*.safetensors")).write_bytes(b"not weights")
    elif what == "vae":
        shutil.rmtree(folder / "vae")


@pytest.mark.parametrize("what", ["scheduler", "index", "weights", "vae"])
def test_incomplete_folders(tiny_prior, tmp_path, what):
    shutil.copytree(tiny_prior, tmp_path / "p")
    _break(tmp_path / "p", what)
    with pytest.raises(UserError, match=r"(path|autoencoder): ") as caught:
        load(tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "p") in str(caught.value)


def test_missing_folder_and_bundled_name():
    with pytest.raises(UserError, match=r"path: folder /nowhere/p does not exist; train a prior"):
        load("/nowhere/p")
    with pytest.raises(UserError, match=r"path: no bundled prior 'bundled:nothing'"):
        load("bundled:nothing")


def test_hub_without_network(monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"facebook/DiT-XL-2-256 is neither .*`hf download") as caught:
        load("facebook/DiT-XL-2-256")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["transformer/diffusion_pytorch_model.safetensors", "vae/config.json",
                                  "scheduler/scheduler_config.json", "model_index.json", None])  # fmt: skip
def test_a_download_that_was_cut_short_is_continued(monkeypatch, tiny_prior, tmp_path, lost):
    import huggingface_hub

    cached = shutil.copytree(tiny_prior, tmp_path / "snapshot")
    if lost:
        (cached / lost).unlink()
    asked = []

    def snapshot(path, *, revision, allow_patterns, local_files_only=False):
        asked.append("cache" if local_files_only else "network")
        return str(cached if local_files_only else tiny_prior)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr("manifoldgd.hub.check_network", lambda: None)
    assert load("someone/prior").null_class == load(tiny_prior).null_class
    assert asked == (["cache", "network"] if lost else ["cache"])
    with only_cached():
        if lost:
            with pytest.raises(UserError, match=r"someone/prior is not in the cache, or only a part of it; run `hf"):
                load("someone/prior")
        else:
            load("someone/prior")
    assert asked.count("network") == bool(lost)


def test_loading_leaves_global_randomness_alone(tiny_prior):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    load(tiny_prior)
    assert torch.equal(before, torch.random.get_rng_state())


def test_transformer_is_the_saved_one(tiny_prior):
    twin = DiTTransformer2DModel.from_pretrained(tiny_prior, subfolder="transformer", low_cpu_mem_usage=False)
    loaded = load(tiny_prior).network.state_dict()
    assert all(torch.equal(value.float(), loaded[name]) for name, value in twin.state_dict().items())


def test_a_written_prior_keeps_its_class_names(tmp_path):
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=2, norm_num_groups=2, in_channels=1, out_channels=1)
    shape = {"latent_shape": (2, 4, 4), "num_classes": 2}
    write_prior(tmp_path, vae, build_transformer(**shape, width=8, heads=2, layers=1, patch_size=2), ("cat", "dog"))
    prior = load_prior(path=str(tmp_path), autoencoder=None, cfg_scale=None, cfg_channels=None)
    assert prior.class_names == ("cat", "dog")


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-true", 0.05), ("16-true", 0.01)])
def test_a_prior_held_in_half_precision_gives_single_precision_close_by(tmp_path, precision, tolerance):
    folder = write_tiny_prior(tmp_path / "prior")
    whole, half = load(folder), load(folder).hold(precision)
    assert whole.hold("32-true") is whole
    assert half.network.dtype == HELD[precision]
    # diffusers takes autoencoders to overflow in float16 unless their configuration says otherwise
    assert half.autoencoder.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    images = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
    latents, times, labels = whole.encode(images), torch.tensor([3, 500]), torch.tensor([1, 2])
    for one, other in (
        (latents, half.encode(images)),
        (whole.denoise(latents, times, labels), half.denoise(latents, times, labels)),
        (whole.decode_pixels(latents, (8, 8)), half.decode_pixels(latents, (8, 8)).float()),
        (whole.block_features(latents, times, labels, 1), half.block_features(latents, times, labels, 1).float()),
    ):
        assert float((one - other).abs().max()) <= tolerance * float(one.abs().max())
    assert half.encode(images).dtype == half.denoise(latents, times, labels).dtype == torch.float32
    assert half.decode(latents, (8, 8)).dtype == torch.uint8
