"""Training a prior: it can be killed anywhere, continues to the same weights, and never mixes recipes."""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prior_parts import AUTOENCODER, DENOISER
from tiny import cpu

from manifoldgd import ranks, stopping
from manifoldgd.cli.compose import compose
from manifoldgd.data import digits
from manifoldgd.diffusion import FlowSchedule
from manifoldgd.diffusion.toy import GaussianMixtureDenoiser
from manifoldgd.errors import RunError, UserError
from manifoldgd.pipeline.prior import Cost, say_cost, some_of, train_and_judge
from manifoldgd.priors import fit as fitting
from manifoldgd.priors import load_prior, training
from manifoldgd.priors.autoencoder import exponential_average, warmup_cosine
from manifoldgd.priors.batches import StepBatches
from manifoldgd.priors.denoiser import DenoiserTraining
from manifoldgd.priors.loading import CARD
from manifoldgd.priors.training import train_prior
from manifoldgd.priors.weights import CHECKSUMS
from manifoldgd.stopping import Stopped, listening


class Killed(BaseException):
    """Nobody catches this on the way out."""


def train(folder, *, autoencoder=AUTOENCODER, denoiser=DENOISER, seed=0, said=None, count=5, progress=False, **machine):
    trainer = cpu(progress=progress, **machine).trainer()
    dataset = digits(train_per_class=count, validation=None)
    say = (lambda line: None) if said is None else said.append
    return train_prior(
        dataset, folder, autoencoder=autoencoder, denoiser=denoiser, seed=seed, trainer=trainer, announce=say
    )


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_gradients_of_the_shares_add_up_to_those_of_the_batch(part, processes, monkeypatch):
    dataset = digits(train_per_class=5, validation=None)
    if part == "autoencoder":
        module = training._autoencoder_training(dataset, AUTOENCODER, 0)
    else:
        latents = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        module = training.denoiser_training(dataset, latents, dataset.train.labels, DENOISER, 0)
        for parameter in module.transformer.parameters():  # zeros at first, through which no gradient comes
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(module, "log", lambda *given, **named: None)
    monkeypatch.setattr(module, "log_dict", lambda *given, **named: None)
    trained = [each for name, each in module.named_parameters() if not name.startswith("average")]

    def gradients():
        return torch.cat([each.flatten() for each in torch.autograd.grad(module.training_step(batch), trained)])

    batch = 3, torch.arange(8)
    whole = gradients()
    monkeypatch.setattr(ranks, "count", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(ranks, "rank", lambda own=rank: own)
        shares.append(gradients())
    torch.testing.assert_close(sum(shares), whole, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(shares[0], shares[1], atol=1e-4, rtol=0)


def twenty_seconds_a_step(monkeypatch):
    """A clock by which a state is saved after every third step."""
    ticks = itertools.count(step=20)
    clock = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr(fitting, "time", clock)


def weights(folder):
    prior = load_prior(path=str(folder), autoencoder=None, cfg_scale=None, cfg_channels=None)
    return {**prior.network.state_dict(), **{f"vae.{n}": v for n, v in prior.autoencoder.state_dict().items()}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "prior"
    said = []
    seconds = train(folder, said=said)
    return folder, seconds, said


def test_a_trained_prior_loads_and_its_latents_have_unit_spread(trained):
    folder, seconds, said = trained
    prior = load_prior(path=str(folder), autoencoder=None, cfg_scale=None, cfg_channels=None)
    assert prior.class_names == tuple("0123456789")
    assert float(prior.encode(digits(train_per_class=5, validation=None).train.images()).std()) == pytest.approx(
        1, abs=0.02
    )
    assert set(seconds) == {"autoencoder", "denoiser"}
    assert all(each.steps == 12 and each.seconds > 0 for each in seconds.values())
    assert [line.split(":")[0] for line in said] == ["autoencoder", "denoiser"]
    assert all(torch.isfinite(value).all() for value in weights(folder).values())


@pytest.mark.parametrize("killed_at", [("AutoencoderTraining", 7), ("DenoiserTraining", 8)], ids=lambda each: each[0])
def test_killed_and_resumed_equals_uninterrupted(trained, tmp_path, monkeypatch, killed_at):
    name, step_of_death = killed_at
    twenty_seconds_a_step(monkeypatch)
    from manifoldgd.priors import training

    module = getattr(training, name)
    step = module.training_step

    def dying_step(self, batch):
        if batch[0] == step_of_death:
            raise Killed
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", dying_step)
        with pytest.raises(Killed):
            train(tmp_path / "p")
    assert not (tmp_path / "p" / "model_index.json").exists()
    seen = []

    def watched_step(self, batch):
        seen.append(batch[0])
        return step(self, batch)

    monkeypatch.setattr(module, "training_step", watched_step)
    train(tmp_path / "p")
    assert seen == list(range(6, 12))  # from the last checkpoint on
    expected, found = weights(trained[0]), weights(tmp_path / "p")
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_a_resumed_denoiser_counts_on_and_encodes_nothing_again(tmp_path, monkeypatch):
    from manifoldgd.priors import training

    twenty_seconds_a_step(monkeypatch)
    step = training.DenoiserTraining.training_step

    def dying_step(self, batch):
        if batch[0] == 8:
            raise Killed
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.DenoiserTraining, "training_step", dying_step)
        with pytest.raises(Killed):
            train(tmp_path / "p")

    def never(*args):
        raise AssertionError("encoded again")

    shown = []
    update = fitting.StepProgressBar._update

    def watched_update(self, bar, current, *rest):
        shown.append((current, self.progress.tasks[bar].total))
        update(self, bar, current, *rest)

    monkeypatch.setattr(training, "_encode", never)
    monkeypatch.setattr(fitting.StepProgressBar, "_update", watched_update)
    monkeypatch.setattr(fitting, "REFRESH_EVERY", 1)
    monkeypatch.setattr(fitting, "on_terminal", lambda: True)
    train(tmp_path / "p", progress=True)
    assert shown == [(7, 12), (8, 12), (9, 12), (10, 12), (11, 12), (12, 12)]


def test_another_seed_gives_other_weights(trained, tmp_path):
    train(tmp_path / "p", seed=1)
    expected, found = weights(trained[0]), weights(tmp_path / "p")
    assert not torch.equal(expected["pos_embed.proj.weight"], found["pos_embed.proj.weight"])


def test_checkpoints_of_another_recipe_are_refused(tmp_path, monkeypatch):
    from manifoldgd.priors import training

    def dying_step(self, batch):
        raise Killed

    monkeypatch.setattr(training.AutoencoderTraining, "training_step", dying_step)
    with pytest.raises(Killed):
        train(tmp_path / "p")
    for changes, named in (
        ({"autoencoder": dataclasses.replace(AUTOENCODER, lr=2e-3)}, "lr"),
        ({"denoiser": dataclasses.replace(DENOISER, layers=2)}, "denoiser"),
        ({"denoiser": dataclasses.replace(DENOISER, path="flow")}, "denoiser"),
        ({"seed": 1}, "seed"),
        ({"count": 4}, "dataset"),
        ({"precision": "bf16-mixed"}, "precision"),
    ):
        with pytest.raises(UserError, match=rf"another recipe \(different: {named}\); choose another output"):
            train(tmp_path / "p", **changes)


def test_damaged_latents_of_a_stopped_training_are_found(tmp_path, monkeypatch):
    from manifoldgd.priors import training

    def dying_step(self, batch):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.DenoiserTraining, "training_step", dying_step)
        with pytest.raises(Killed):
            train(tmp_path / "p")
    file = tmp_path / "p" / "training" / "latents.safetensors"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"latents\.safetensors: .* remove it to encode the images again"):
        train(tmp_path / "p")
    file.unlink()
    train(tmp_path / "p")


def test_a_finished_prior_is_not_overwritten(trained):
    (trained[0] / CARD).write_text("{}")  # the card comes last: it says that the prior has been judged
    with pytest.raises(UserError, match="already holds a trained prior"):
        train(trained[0])
    (trained[0] / CARD).unlink()


def test_the_same_command_again_finds_the_finished_prior(shared_cache, tmp_path):
    """Also where the first was ended between the card, which says that it is done, and the rest."""

    def ask(seed=0):
        dataset = digits(train_per_class=None, validation=None)
        numbers = {"cfg_scale": 1.5, "judge_samples": 10, "seed": seed, "machine": cpu(), "cache": shared_cache}
        return train_and_judge(tmp_path, dataset, autoencoder=AUTOENCODER, denoiser=DENOISER, **numbers)

    first = ask()
    assert first["judge"]["samples"] == 10
    assert not (tmp_path / "training" / "latents.safetensors").exists()
    listed = (tmp_path / CHECKSUMS).read_text()
    when = (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    (tmp_path / CHECKSUMS).unlink()
    (tmp_path / "training" / "latents.safetensors").touch()
    assert ask() == json.loads(json.dumps(first))
    assert not (tmp_path / "training" / "latents.safetensors").exists()
    assert (tmp_path / CHECKSUMS).read_text() == listed
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == when
    with pytest.raises(UserError, match=r"output: .* already holds a trained prior"):
        ask(seed=1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: dataclasses.replace(AUTOENCODER, image_size=9),
            r"^image_size: expected a multiple of 2 .* or block_channels",
        ),
        (lambda: dataclasses.replace(AUTOENCODER, steps=0), r"steps: expected .*, got 0"),
        (lambda: dataclasses.replace(DENOISER, heads=3), r"^heads: expected a divisor of width=8"),
        (
            lambda: dataclasses.replace(DENOISER, path="line"),
            r"DenoiserRecipe\.path: expected one of diffusion, flow, got .line.",
        ),
        (lambda: dataclasses.replace(DENOISER, steps=0), r"DenoiserRecipe\.steps"),
        (lambda: dataclasses.replace(DENOISER, class_dropout=1.0), r"DenoiserRecipe\.class_dropout"),
    ],
)
def test_recipes_check_their_numbers(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_training_is_ended_early_and_lengthened_later(trained, shared_cache, tmp_path):
    """Fewer steps than are done take what there is; more continue, and only the denoiser where only it is to."""
    from manifoldgd.priors.fit import progress_in

    folder = shutil.copytree(trained[0], tmp_path / "p")

    def ask(steps, folder=folder, autoencoder=12):
        dataset = digits(train_per_class=5, validation=None)
        numbers = {"cfg_scale": 1.5, "judge_samples": 10, "seed": 0, "machine": cpu(), "cache": shared_cache}
        recipe = {
            "autoencoder": dataclasses.replace(AUTOENCODER, steps=autoencoder),
            "denoiser": dataclasses.replace(DENOISER, steps=steps),
        }
        return train_and_judge(folder, dataset, **recipe, **numbers)

    early = ask(5)
    assert early["steps"] == {"autoencoder": 12, "denoiser": 12}  # what there is
    autoencoder, before = progress_in(folder / "training" / "autoencoder"), weights(folder)
    assert ask(12) == json.loads(json.dumps(early))
    later = ask(20)
    assert later["steps"] == {"autoencoder": 12, "denoiser": 20}
    assert progress_in(folder / "training" / "autoencoder") == autoencoder
    after = weights(folder)
    assert torch.equal(before["vae.encoder.conv_in.weight"], after["vae.encoder.conv_in.weight"])
    assert not torch.equal(before["proj_out_2.weight"], after["proj_out_2.weight"])
    assert ask(20, autoencoder=14)["steps"] == {"autoencoder": 14, "denoiser": 20}
    shutil.rmtree(folder / "training")
    with pytest.raises(UserError, match=r"^denoiser\.steps: expected at most the 20 steps .* training folder"):
        ask(21)


def test_what_a_training_will_cost_is_said_without_writing_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = digits(train_per_class=5, validation=None)
    recipe = {"autoencoder": dataclasses.replace(AUTOENCODER, image_size=None, steps=10**6), "denoiser": DENOISER}
    say_cost(dataset, **recipe, judge_samples=10, seed=0, machine=cpu())
    said = capsys.readouterr().out
    assert re.search(r"50 training images of 10 classes at 8 pixels .* 1,000,000 steps of 8 images .* 2x4x4", said)
    assert re.search(r"about \d+ (h|min) .* on this machine", said)
    assert list(tmp_path.iterdir()) == []


def ended_step(times, max_steps=10, steps=0):
    trainer = SimpleNamespace(should_stop=False, max_steps=max_steps, global_step=steps)
    times.on_train_batch_end(trainer, DenoiserTraining.__new__(DenoiserTraining), {"loss": torch.zeros(())})
    return trainer.should_stop


def test_a_moment_of_load_does_not_change_what_a_step_takes():
    ends = iter([30.0, 30.6, 31.2, 43.2, 43.8, 44.4])  # setting up, and one step of twelve seconds
    times = fitting.FewSteps(lambda: next(ends))
    assert [ended_step(times) for _ in range(5)] == [False] * 4 + [True]  # four steps at least, though they take long
    assert times.seconds == pytest.approx(0.6)


def test_the_cost_is_said_again_by_the_first_minutes(capsys):
    told, now = [], itertools.count(step=50)
    cost = Cost({"autoencoder": 25.0, "denoiser": 2.0}, {"autoencoder": 2000, "denoiser": 3000}, 100.0, 1000)
    times = fitting.FirstMinutes(lambda *said: told.append(said), lambda: next(now))
    for step in range(9):
        ended_step(times, 2000, step)
    assert told == [("denoiser", 50, 1996)]  # once; four steps say it, though two took long enough
    assert str(cost).startswith("about 15 h 36 min on this machine, by a few steps of each")
    cost.say_again("autoencoder", 2.5, 1800)
    said = capsys.readouterr().out
    assert "about 1 h 25 min on this machine, by the first minutes of the autoencoder: autoencoder 1 h 15 min" in said
    assert "denoiser 10 min 00 s (0.2 s a step), 1,000 samples to judge 20 s" in said
    cost.say_again("denoiser", 0.1, 2000)
    assert "about 3 min 30 s on this machine" in capsys.readouterr().out


def test_a_recipe_without_a_size_follows_the_images():
    recipe = dataclasses.replace(AUTOENCODER, image_size=None, block_channels=[8, 8, 8])
    sizes = [recipe.for_images((3, *shape)).image_size for shape in ((32, 32), (30, 27), (3, 3))]
    assert sizes == [32, 32, 4]
    assert dataclasses.replace(recipe, image_size=64).for_images((3, 32, 32)).image_size == 64


class ExactVelocity(torch.nn.Module):
    """The best that a network can predict of a flow from ``N(mean, std^2)``, times ``factor``."""

    def __init__(self, mean, std, schedule, factor):
        super().__init__()
        self.config, self.factor = SimpleNamespace(num_embeds_ada_norm=1), factor
        means, stds, ones = torch.tensor([mean]).view(1, 1, 1, 1), torch.tensor([std]), torch.ones(1)
        labels = torch.zeros(1, dtype=torch.long)
        self.exact = GaussianMixtureDenoiser(means, stds, ones, labels, schedule, null_class=1, prediction="flow")

    def forward(self, x_t, timestep, class_labels):
        return SimpleNamespace(sample=self.factor * self.exact(x_t, timestep, class_labels))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.4)])
def test_the_loss_of_a_flow_is_least_for_the_exact_velocity(mean, std):
    r"""There it is ``E Var(eps - x0 | x_t) = \int_0^1 s^2 / (t^2 + (1 - t)^2 s^2) dt = s pi / 2``, ``t`` uniform."""
    schedule = FlowSchedule.training(num_timesteps=1000)
    count = 40_000
    latents = mean + std * torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    numbers = {"lr": 1e-3, "class_dropout": 0.1, "ema": 0.9, "steps": 1, "seed": 0}

    def loss(factor):
        network = ExactVelocity(mean, std, schedule, factor)
        labels = torch.zeros(count, dtype=torch.long)
        training = DenoiserTraining(network, latents, labels, schedule, **numbers)
        training.log = lambda *args, **named: None
        return float(training.training_step((0, torch.arange(count))))

    least = loss(1.0)
    assert least == pytest.approx(math.pi / 2 * std, rel=0.02)
    assert least < min(loss(0.9), loss(1.1))


def test_a_flow_is_trained_judged_and_sampled_by_euler(trained, shared_cache, tmp_path):
    flow = dataclasses.replace(DENOISER, path="flow")
    folder = tmp_path / "my prior"
    shutil.copytree(trained[0] / "training" / "autoencoder", folder / "training" / "autoencoder")
    dataset = digits(train_per_class=5, validation=None)
    numbers = {"cfg_scale": 1.5, "judge_samples": 10, "seed": 0, "machine": cpu(), "cache": shared_cache}
    facts = train_and_judge(folder, dataset, autoencoder=AUTOENCODER, denoiser=flow, **numbers)
    assert facts["recipe"]["denoiser"]["path"] == "flow"
    assert facts["judge"]["samples"] == 10
    prior = load_prior(path=str(folder), autoencoder=None, cfg_scale=None, cfg_channels=None)
    assert prior.prediction == "flow"
    assert isinstance(prior.schedule, FlowSchedule)
    before, after = weights(trained[0]), weights(folder)  # the same but for what was learned of the path
    assert torch.equal(before["vae.encoder.conv_in.weight"], after["vae.encoder.conv_in.weight"])
    assert not torch.equal(before["proj_out_2.weight"], after["proj_out_2.weight"])
    card = (folder / "README.md").read_text()
    assert "Latent flow prior" in card
    assert "sampler=euler" in card
    for words, target in (
        ([f"prior={folder}"], "Euler"),
        (["prior=folder", f"prior.path='{folder}'"], "Euler"),
        ([f"prior={folder}", "sampler=ddpm"], "DDPM"),  # as told; the run will say that it does not fit
        ([f"prior={trained[0]}"], "DDPM"),
    ):
        assert compose(words).values.sampler._target_.endswith(target)
    with pytest.raises(UserError, match="already holds a trained prior"):
        train_and_judge(folder, dataset, autoencoder=AUTOENCODER, denoiser=DENOISER, **numbers)


def test_every_epoch_shows_every_image_once():
    batches = StepBatches(num_items=10, batch_size=4, seed=0, first=0, last=5)
    rows = torch.cat([batches.positions(step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    late = StepBatches(num_items=10, batch_size=4, seed=0, first=3, last=5)
    assert [(step, rows.tolist()) for step, rows in late] == [
        (step, batches.positions(step).tolist()) for step in (3, 4)
    ]
    other = StepBatches(num_items=10, batch_size=4, seed=1, first=0, last=5)
    assert [each.tolist() for _, each in other] != [each.tolist() for _, each in batches]


def test_a_batch_may_be_larger_than_the_data():
    batches = StepBatches(num_items=3, batch_size=8, seed=0, first=0, last=2)
    rows = torch.cat([positions for _, positions in batches])
    assert len(rows) == 16
    assert rows[:15].bincount().tolist() == [5, 5, 5]


def test_learning_rate_warms_up_and_ends_at_zero():
    factors = [warmup_cosine(step, warmup=4, total=20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[12] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))


def test_the_average_forgets_its_start_and_then_decays_slowly():
    update = exponential_average(0.9)
    zero, one = torch.zeros(1), torch.ones(1)
    assert float(update(zero, one, 0)) == pytest.approx(0.9)
    assert float(update(zero, one, 10_000)) == pytest.approx(0.1)
    kept = [float(update(one, zero, n)) for n in range(100)]  # of what was there before
    assert kept == sorted(kept)
    assert float(torch.tensor(kept[:10]).prod()) < 1e-3  # ten steps forget the untrained weights


def test_the_average_holds_the_last_step(tmp_path):
    """Updated before the optimiser's step, it would be the untrained weights after one."""
    found = []
    for rate in (1e-3, 1e-2):
        autoencoder, denoiser = (dataclasses.replace(each, steps=1, lr=rate) for each in (AUTOENCODER, DENOISER))
        train(tmp_path / str(rate), autoencoder=autoencoder, denoiser=denoiser)
        found.append(weights(tmp_path / str(rate)))
    for name in ("vae.encoder.conv_in.weight", "proj_out_2.weight"):
        assert not torch.equal(found[0][name], found[1][name])


def test_images_larger_than_the_autoencoder_s_are_refused(tmp_path):
    """They would be cut to their centre without a word."""
    small = dataclasses.replace(AUTOENCODER, image_size=4)
    with pytest.raises(UserError, match=r"^autoencoder.image_size: expected at least the 8 pixels .*, got 4"):
        train(tmp_path / "p", autoencoder=small)
    with pytest.raises(UserError, match=r"^denoiser\.patch_size: expected a divisor of 4, .*, got 3"):
        train(tmp_path / "p", denoiser=dataclasses.replace(DENOISER, patch_size=3))
    assert not (tmp_path / "p").exists()


def test_a_card_compares_with_images_of_every_class_though_a_folder_holds_them_class_by_class():
    dataset = digits(train_per_class=20, validation=None)
    order = dataset.train.labels.argsort(stable=True)
    sorted_by_class = dataclasses.replace(dataset, train=dataset.train.subset(order))
    drawn = some_of(sorted_by_class, 60)
    assert len(set(drawn.tolist())) == 60
    assert set(sorted_by_class.train.labels[drawn].tolist()) == set(range(10))
    assert torch.equal(drawn, some_of(sorted_by_class, 60))
    assert len(some_of(dataset, 10_000)) == 200


@pytest.mark.parametrize("name", ["AutoencoderTraining", "DenoiserTraining"])
def test_a_signal_saves_the_step_under_way_and_the_same_command_gives_the_same_bits(
    trained, tmp_path, monkeypatch, name
):
    from manifoldgd.priors import training

    module, part = getattr(training, name), name.removesuffix("Training").lower()
    step = module.training_step

    def signalled_step(self, batch):
        if batch[0] == 7:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", signalled_step)
        with pytest.raises(Stopped, match=rf"step 8 of 12 is saved in .*last.ckpt \(with recipe.{part}"), listening():
            train(tmp_path / "p")
    assert steps_of_the_same_command(module, tmp_path / "p", monkeypatch) == list(range(8, 12))
    same_weights(trained[0], tmp_path / "p")


def steps_of_the_same_command(module, folder, monkeypatch):
    """Train on, and tell which steps were taken."""
    seen, step = [], module.training_step

    def watched_step(self, batch):
        seen.append(batch[0])
        return step(self, batch)

    monkeypatch.setattr(module, "training_step", watched_step)
    train(folder)
    return seen


def same_weights(one, other):
    expected, found = weights(one), weights(other)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.parametrize("name", ["AutoencoderTraining", "DenoiserTraining"])
def test_a_step_that_takes_long_is_given_up_and_the_one_before_it_saved(trained, tmp_path, monkeypatch, name):
    from manifoldgd.priors import training

    module = getattr(training, name)
    step = module.training_step
    monkeypatch.setattr(stopping, "HELD_AT_MOST", 0.05)

    def long_step(self, batch):
        loss = step(self, batch)
        if batch[0] == 7:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(4)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", long_step)
        with pytest.raises(Stopped, match=r"step 7 of 12 is saved in .*last.ckpt"), listening():
            train(tmp_path / "p")
    assert steps_of_the_same_command(module, tmp_path / "p", monkeypatch) == list(range(7, 12))
    same_weights(trained[0], tmp_path / "p")


def test_an_optimiser_that_takes_long_is_waited_for(trained, tmp_path, monkeypatch):
    """Half of its parameters would be of this step, half of the one before."""
    from manifoldgd.priors import training

    monkeypatch.setattr(stopping, "HELD_AT_MOST", 0.05)
    steps = torch.optim.AdamW.step

    def long_step(self, closure=None):
        loss = closure()
        if len(self.state) and next(iter(self.state.values()))["step"] == 7:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
        steps(self)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", long_step)
        with pytest.raises(Stopped, match="step 8 of 12 is saved"), listening():
            train(tmp_path / "p")
    assert steps_of_the_same_command(training.AutoencoderTraining, tmp_path / "p", monkeypatch) == list(range(8, 12))
    same_weights(trained[0], tmp_path / "p")


def test_a_request_before_the_first_step_leaves_the_state_that_is_there(tmp_path, monkeypatch):
    from manifoldgd.priors import training

    def never(self, batch):
        raise Killed

    def long_start(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(4)

    twenty_seconds_a_step(monkeypatch)
    monkeypatch.setattr(stopping, "HELD_AT_MOST", 0.05)
    step = training.AutoencoderTraining.training_step
    with monkeypatch.context() as patch:
        patch.setattr(
            training.AutoencoderTraining,
            "training_step",
            lambda self, batch: never(self, batch) if batch[0] == 4 else step(self, batch),
        )
        with pytest.raises(Killed):
            train(tmp_path / "p")
    held = (tmp_path / "p" / "training" / "autoencoder" / "last.ckpt").read_bytes()
    monkeypatch.setattr(training.AutoencoderTraining, "configure_optimizers", long_start)
    with pytest.raises(Stopped, match="what is finished is kept"), listening():
        train(tmp_path / "p")
    assert (tmp_path / "p" / "training" / "autoencoder" / "last.ckpt").read_bytes() == held


SLOW_BACKWARD = """
import os, signal, sys
from manifoldgd import ranks, stopping
from manifoldgd.cli.main import main
from manifoldgd.priors.autoencoder import AutoencoderTraining

stopping.HELD_AT_MOST, stopping.PATIENCE = 0.05, 0.4
step = AutoencoderTraining.training_step
def signalled(self, batch):
    loss = step(self, batch)
    if batch[0] == 2:
        loss.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGTERM))
    return loss
AutoencoderTraining.training_step = signalled
main()
"""


@pytest.mark.slow
def test_a_signal_is_heard_while_gradients_are_computed(tmp_path):
    """The backward pass is one long call: the process would be ended in it, and its state lost."""
    words = ["dataset=digits", "machine=cpu", "machine.threads=1", "machine.progress=false", f"cache={tmp_path}/cache"]
    words += [f"output={tmp_path}/p", "recipe.autoencoder.block_channels=[32,32]", "recipe.autoencoder.batch_size=256"]
    words += ["recipe.autoencoder.steps=20", "recipe.denoiser.steps=20", "recipe.autoencoder.image_size=16"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SLOW_BACKWARD, "prior", *words],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGTERM; step 2 of 20 is saved" in done.stderr
    assert fitting.progress_in(tmp_path / "p" / "training" / "autoencoder").steps == 2


@pytest.mark.parametrize("name", ["AutoencoderTraining", "DenoiserTraining"])
def test_a_training_that_diverges_writes_nothing_of_it(tmp_path, monkeypatch, name):
    from manifoldgd.priors import training

    module = getattr(training, name)
    step = module.training_step
    twenty_seconds_a_step(monkeypatch)

    def diverging_step(self, batch):
        loss = step(self, batch)
        return loss * torch.nan if batch[0] == 7 else loss

    monkeypatch.setattr(module, "training_step", diverging_step)
    part = name.removesuffix("Training").lower()
    with pytest.raises(RunError, match=rf"training of the {part} diverged .* step 9 .*recipe.{part}.lr"):
        train(tmp_path / "p")
    held = torch.load(tmp_path / "p" / "training" / part / "last.ckpt", weights_only=True)
    assert held["global_step"] == 6
    assert all(value.isfinite().all() for value in held["state_dict"].values())
    assert not (tmp_path / "p" / "model_index.json").exists()
