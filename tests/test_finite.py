"""NaN, infinity and guidance that runs away: found where they arise, named, and nothing bad is written."""

import dataclasses
import json
import re

import pytest
import torch
from command import quick
from student_parts import MEAN, STD, student
from tiny import cpu

from manifoldgd.data import digits
from manifoldgd.diffusion import DDPM, NoiseSchedule, sample
from manifoldgd.diffusion.loop import RUNAWAY
from manifoldgd.diffusion.protocol import Pull
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.errors import RunError
from manifoldgd.finite import NotFinite, check_finite, row_sums
from manifoldgd.guidance import NoGuidance
from manifoldgd.pipeline import latents, sets
from manifoldgd.pipeline.sets import ran_away
from manifoldgd.pipeline.spaces import FeatureTable
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.randomness import RowKey, RowNoise
from manifoldgd.report.run import runaway_sentence
from manifoldgd.store.sets import load_set
from manifoldgd.students import train_classifier
from manifoldgd.students.recipe import STANDARD

SCHEDULE = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000).respaced(9, "ddpm")
BAD = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


@BAD
def test_a_row_sum_is_finite_where_the_row_is(bad):
    values = torch.randn(4, 2, 3)
    values[2, 1, 0] = bad
    assert row_sums(values).isfinite().tolist() == [True, True, False, True]
    assert row_sums(torch.full((1, 9, 9), 60000.0).half()).isfinite().all()  # half's own sum would overflow
    with pytest.raises(NotFinite, match="thing: NaN or infinity in 1 of 4, the first is number 2; mend it") as found:
        check_finite(values, "thing", "mend it")
    assert found.value.rows == [2]


# Sampling


def sampled(denoiser=None, guidance=None, on_step=None):
    rows = RowNoise(0, [RowKey("cat", 0), RowKey("dog", 3, 1)])
    return sample(
        denoiser or (lambda x_t, t, labels: x_t),
        SCHEDULE,
        DDPM(steps=9, cfg_scale=None),
        labels=torch.zeros(2, dtype=torch.int64),
        noise=rows,
        shape=(1, 2, 2),
        variance="fixed_small",
        guidance=guidance,
        on_step=on_step,
    )


def pulling(strength):
    def guidance(step):
        return Pull(scaled=strength(step), plain=None, kept=None)

    return guidance


@BAD
def test_a_denoiser_that_gives_no_number_stops_the_batch_with_its_name(bad):
    def denoiser(x_t, timesteps, labels):
        output = x_t.clone()
        if int(timesteps[0]) == int(SCHEDULE.timesteps[5]):
            output[1, 0, 1, 1] = bad
        return output

    seen = []
    expected = (
        r"class 'dog', prototype 3, replica 1: NaN or infinity from the denoiser at step 4 of 9 \(1 of 2 images .*"
        "weights.*machine.precision.*sampler.cfg_scale"
    )
    for guidance in (None, pulling(lambda step: -0.1 * step.x0)):
        with pytest.raises(RunError, match=expected):
            sampled(denoiser, guidance, seen.append)
    assert len(seen) == 18  # nothing is read before the batch ends


@BAD
def test_a_guidance_that_gives_no_number_is_told_apart(bad):
    def strength(step):
        return torch.full_like(step.x0, bad if step.index == 6 else 0.0)

    with pytest.raises(RunError, match=r"class 'cat', prototype 0, .* from the guidance at step 3 of 9 .*scale"):
        sampled(guidance=pulling(strength))


def test_a_guidance_that_overshoots_is_the_cause_of_what_breaks_later():
    def strength(step):
        return -1e9 * step.x0

    with pytest.raises(RunError, match="its guidance ran away before"):
        sampled(guidance=pulling(strength))


def test_a_pull_beyond_a_multiple_of_the_noise_is_counted():
    for factor, runs_away in ((0.9, False), (1.1, True)):
        records = []

        def strength(step, factor=factor):
            return factor * RUNAWAY * step.noise.normal("step", step.index, step.x0.shape[1:])

        sampled(guidance=pulling(strength), on_step=records.append)
        assert [record.runaway.tolist() for record in records] == [[runs_away] * 2] * 8 + [[False] * 2]


def test_a_pull_on_the_prediction_may_outweigh_what_noise_is_left():
    def guidance(step):
        return Pull(scaled=None, plain=None, kept=None, clean=torch.full_like(step.x0, 100.0))

    records = []
    sampled(guidance=guidance, on_step=records.append)
    assert not any(record.runaway.any() for record in records)


@BAD
def test_a_decoder_that_gives_no_number_stops_the_batch_with_the_image_s_name(prior, bad):
    def decode_pixels(self, latents, size, real=Prior.decode_pixels):
        pixels = real(self, latents, size)
        if len(pixels) < 4:  # the last part of the batch
            pixels[1, 0, 0, 0] = bad
        return pixels

    broken = type("Broken", (Prior,), {"decode_pixels": decode_pixels})(**vars(prior))
    module = DistillModule(
        broken, DDPM(steps=2, cfg_scale=None), NoGuidance(), None, image_size=(8, 8), seed=0, at_once=4
    )
    items = work_items(tuple("0123456789"), range(10), 1)
    with (
        torch.inference_mode(),
        pytest.raises(RunError, match=r"class '9', prototype 0, .*decoder's images: .*"),
    ):
        module.predict_step(items)


def test_what_is_finished_stays_and_the_same_command_continues(capsys, monkeypatch, tiny_prior, tmp_path):
    keys = ("guidance=none", "machine.batch_size=4", "ipc=2")
    assert quick("distill", tiny_prior, tmp_path / "c", tmp_path / "whole", *keys) == 0
    capsys.readouterr()

    def denoise(self, x_t, timesteps, labels, real=Prior.denoise):
        output = real(self, x_t, timesteps, labels)
        return output.masked_fill((labels == 5).view(-1, 1, 1, 1), torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(Prior, "denoise", denoise)
        for _ in range(2):
            assert quick("distill", tiny_prior, tmp_path / "c", tmp_path / "o", *keys) == 1
            err = capsys.readouterr().err
            assert err.startswith(
                "manifoldgd: error: sampling: class '5', prototype 0, replica 0: NaN or infinity from"
            )
            assert err.count("\n") == 1
            made = sorted(file.parent.name for file in (tmp_path / "o" / "set").rglob("*.png"))
            assert made == sorted("01234" * 2)[:8]
            assert not (tmp_path / "o" / "set" / "manifest.json").exists()
    assert quick("distill", tiny_prior, tmp_path / "c", tmp_path / "o", *keys) == 0
    assert torch.equal(load_set(tmp_path / "o").images, load_set(tmp_path / "whole").images)


def test_a_pull_that_is_too_strong_is_told_from_a_prior_that_knows_little():
    calm, grown, at_once = [0.5, 0.7, 0.9, None], [None, 0.8, 3.0, 1e8], [None, 5.0, 30.0, 2.0]
    curves = [
        {"ratio": calm, "runaway": 0},
        {"ratio": grown, "runaway": 2},
        {"ratio": at_once, "runaway": 2},
        {"ratio": calm},
    ]
    assert ran_away(curves) == (2, 1)
    assert runaway_sentence(2, 0, 4).endswith("the noise; lower guidance.scale")
    assert "1 at the first pull" in runaway_sentence(2, 1, 4)


def test_images_that_ran_away_are_counted_shown_and_warned_of(capsys, tiny_prior, shared_cache, tmp_path):
    keys = ("guidance=mode", "guidance.scale=30", "sampler.steps=6", "measures=false")
    assert quick("run", tiny_prior, shared_cache, tmp_path / "o", *keys) == 0
    sentence = f"10 of 10 images ran away: at some step guidance moved them by more than {RUNAWAY:g} times the noise"
    remedy = "10 at the first pull, so far from the images is what the prior predicts: train it longer, or lower guid"
    assert f"manifoldgd: warning: {sentence}; {remedy}ance.scale\n" in capsys.readouterr().err
    rows = load_set(tmp_path / "o").manifest["images"]
    assert all(1 <= row["guidance"]["runaway"] <= 6 for row in rows)
    guidance = json.loads((tmp_path / "o" / "metrics.json").read_text())["guidance"]
    assert guidance["runaway"] == guidance["runaway_at_once"] == 10
    assert sentence in (tmp_path / "o" / "report.html").read_text()
    assert (
        quick("run", tiny_prior, shared_cache, tmp_path / "calm", *keys[2:], "guidance=mode", "guidance.scale=1e-3")
        == 0
    )
    assert "warning" not in capsys.readouterr().err
    assert "ran away" not in (tmp_path / "calm" / "report.html").read_text()


# Latents, features, classifiers


@BAD
def test_latents_that_are_no_numbers_are_not_cached(tiny_prior, tmp_path, bad):
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    with torch.no_grad():
        prior.autoencoder.encoder.conv_out.bias[0] = bad
    with pytest.raises(NotFinite, match=r"prior .*: the encoder's latents: .*machine.precision=32-true"):
        latents.encode(digits(train_per_class=3, validation=None), prior, cpu(), tmp_path)
    assert not list(tmp_path.rglob("meta.json"))


def test_clusterers_refuse_features_that_are_no_numbers(prior, tmp_path):
    dataset = digits(train_per_class=5, validation=None)
    encoded, _ = latents.encode(dataset, prior, cpu(), tmp_path)
    broken = FeatureTable("k", lambda: torch.full((len(dataset.train), 3), torch.nan))
    with pytest.raises(NotFinite, match="clusterer: the features of the training images"):
        latents.cluster(encoded, None, {}, broken, ipc=1, seed=0, machine=cpu(), cache=tmp_path)
    encoded.latents[7] = torch.inf
    with pytest.raises(NotFinite, match=r"clusterer: the latents of the training images: .* number 7"):
        latents.cluster(encoded, None, {}, None, ipc=1, seed=0, machine=cpu(), cache=tmp_path)


@BAD
def test_a_round_trip_that_gives_no_number_is_no_image(prior, bad):
    with pytest.raises(NotFinite, match="the decoder's images"):
        sets.decode_latents(prior, torch.full((2, *prior.latent_shape), bad), (8, 8))


def test_a_student_that_diverges_is_no_result(digits):
    learner = student("student.width=8", "student.protocol.epochs=3")
    object.__setattr__(learner.protocol, "learning_rate", 1e30)  # past the range that a configuration may have
    with pytest.raises(RunError, match=r"student ConvNet-3.*, seed 4: .* diverged in epoch \d .*rate 1e\+30; lower"):
        learner.train(*digits, num_classes=10, mean=MEAN, std=STD, seed=4, ipc=10, progress=False, accelerator="cpu")


def test_a_diverging_student_ends_the_run_and_the_finished_ones_stay(capsys, monkeypatch, tiny_prior, tmp_path):
    keys = ("source=random", "student_seeds=[0,1]", "measures=false")
    from manifoldgd.students.training import Supervised

    def training_step(self, *given, real=Supervised.training_step):
        loss = real(self, *given)
        if "seed 1" in self.name:
            self.losses[-1] = loss.detach() * torch.nan
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "training_step", training_step)
        assert quick("run", tiny_prior, tmp_path / "c", tmp_path / "o", *keys) == 1
    assert re.match(r"manifoldgd: error: student ConvNet-3 .*, seed 1: .*learning rate", capsys.readouterr().err)
    assert [file.name for file in (tmp_path / "o" / "students").glob("*.json")] == ["0.json"]
    assert quick("run", tiny_prior, tmp_path / "c", tmp_path / "o", *keys) == 0


def test_a_classifier_that_diverges_or_is_damaged_is_no_instrument(digits):
    images, labels = digits[:2]
    numbers = {"num_classes": 10, "mean": MEAN, "std": STD, "seed": 0, "flip": False, "progress": False}
    quickly = dataclasses.replace(STANDARD, images_shown=200, width=8)
    broken = dataclasses.replace(quickly)
    object.__setattr__(broken, "learning_rate", 1e30)  # past the range that a configuration may have
    with pytest.raises(RunError, match=r"embedding network ConvNet-1.*: the training diverged"):
        train_classifier(images, labels, recipe=broken, accelerator="cpu", **numbers)
    classifier = train_classifier(images, labels, recipe=quickly, accelerator="cpu", **numbers)
    with torch.no_grad():
        next(classifier.network.parameters())[0] = torch.nan
    for use in (classifier.embed, classifier.logits):
        with pytest.raises(NotFinite, match="network under test"):
            use(images)
