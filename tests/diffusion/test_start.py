"""Sampling that starts at noised prototypes: levels, steps, neutral strength, interruptions, the command."""

import json
import math

import pytest
import torch
from command import quick
from diffusers import DDPMScheduler
from diffusion_parts import DITS, LINEAR, MEANS, TOY, randn, rows
from distill_parts import SAMPLER, Killed, contents, manifold, mode, targets_of
from tiny import cpu, distil

from manifoldgd.diffusion import DDIM, DDPM, Origin, Start, sample
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.errors import UserError
from manifoldgd.guidance import NoGuidance
from manifoldgd.pipeline.evaluation import guidance_steps
from manifoldgd.store.sets import SetWriter

HALF = Start(strength=0.5)
DDIM_SAMPLER = DDIM(steps=4, eta=0.0, cfg_scale=2.0)


def make(folder, dataset, prior, guidance, start, *, sampler=SAMPLER, targets=True, batch_size=8, **more):
    targets = targets_of(dataset, prior, guidance) if targets else None
    numbers = {"ipc": 2, "seed": 0, "machine": cpu(batch_size=batch_size), "facts": {"method": "test", "config": {}}}
    return distil(folder, dataset, prior, sampler, guidance, targets, start=start, **numbers, **more)


class TestStrength:
    @pytest.mark.parametrize("strength", [-0.1, 0, 1.01])
    def test_range(self, strength):
        with pytest.raises(UserError, match=r"strength: expected .*"):
            Start(strength=strength)

    @pytest.mark.parametrize(
        ("strength", "steps", "left"), [(0.7, 50, 35), (0.58, 50, 29), (1, 50, 50), (0.02, 50, 1), (0.999, 50, 50)]
    )
    def test_remaining_steps_are_the_nearest_number(self, strength, steps, left):
        assert Start(strength=strength).remaining(steps) == left

    def test_no_steps_left(self):
        with pytest.raises(UserError, match=r"strength: needs to leave at least one of the 10 steps"):
            Start(strength=0.04).remaining(10)

    def test_only_full_strength_needs_no_prototype(self):
        assert [Start(strength=each).from_prototype for each in (0.5, 0.999, 1, 1.0)] == [True, True, False, False]


class TestLoop:
    def seen(self, origin):
        """What the network is shown, by step."""
        calls = []

        def network(x_t, timesteps, labels):
            calls.append((x_t.clone(), int(timesteps[0])))
            return torch.zeros_like(x_t)

        sample(
            network,
            LINEAR.respaced(50, "ddpm"),
            DDPM(steps=50, cfg_scale=None),
            labels=torch.zeros(3, dtype=torch.int64),
            noise=rows(3),
            shape=(2, 4, 4),
            variance="fixed_small",
            origin=origin,
        )
        return calls

    def test_the_first_step_sees_the_prototype_at_its_own_noise_level(self):
        prototypes, schedule = randn(3, 2, 4, 4), LINEAR.respaced(50, "ddpm")
        calls, whole = self.seen(Origin(prototypes, 35)), self.seen(None)
        assert [timestep for _, timestep in calls] == schedule.timesteps[:35].flip(0).tolist()
        draws = whole[0][0]  # pure noise is the same draw
        alpha_bar = float(LINEAR.alphas_cumprod[calls[0][1]])
        expected = math.sqrt(alpha_bar) * prototypes + math.sqrt(1 - alpha_bar) * draws
        torch.testing.assert_close(calls[0][0], expected, rtol=1e-5, atol=1e-6)
        theirs = DDPMScheduler(**DITS).add_noise(prototypes, draws, torch.full((3,), calls[0][1]))
        torch.testing.assert_close(calls[0][0], theirs, rtol=1e-4, atol=1e-5)

    def test_all_steps_from_a_prototype_are_not_pure_noise(self):
        prototypes = torch.full((3, 2, 4, 4), 100.0)
        assert not torch.equal(self.seen(Origin(prototypes, 50))[0][0], self.seen(None)[0][0])

    def test_the_less_noise_the_closer_to_the_prototype(self):
        mode_mean = MEANS[1].expand(400, *MEANS[1].shape)
        distances = []
        for steps in (2, 15, 50):
            found = sample(
                TOY,
                LINEAR.respaced(50, "ddpm"),
                DDPM(steps=50, cfg_scale=None),
                labels=torch.zeros(400, dtype=torch.int64),
                noise=rows(400),
                shape=MEANS[1].shape,
                variance="fixed_small",
                origin=Origin(mode_mean, steps),
            )
            distances.append(float((found - mode_mean).flatten(1).norm(dim=1).mean()))
        assert distances == sorted(distances)
        assert distances[0] < 0.5 * distances[2]


@pytest.mark.parametrize("sampler", [SAMPLER, DDIM_SAMPLER], ids=["ddpm", "ddim"])
def test_full_strength_is_pure_noise_bit_for_bit(prior, dataset, tmp_path, sampler):
    facts = {"method": "test", "config": {}}
    numbers = {"ipc": 2, "seed": 0, "machine": cpu(batch_size=8), "facts": facts}
    plain = distil(tmp_path / "a", dataset, prior, sampler, NoGuidance(), None, **numbers)
    full = make(tmp_path / "b", dataset, prior, NoGuidance(), Start(strength=1), sampler=sampler, targets=False)
    assert torch.equal(plain.images, full.images)
    half = make(tmp_path / "c", dataset, prior, NoGuidance(), HALF, sampler=sampler)
    assert not torch.equal(plain.images, half.images)


def test_each_image_starts_from_its_own_prototype(prior, dataset):
    guidance = NoGuidance()
    targets = targets_of(dataset, prior, guidance)
    module = DistillModule(
        prior, SAMPLER, guidance, targets, image_size=(8, 8), seed=0, at_once=64, start=Start(strength=0.25)
    )
    items = work_items(dataset.class_names, range(10), 2)[::-3]
    origin = module._origin(items)
    assert origin.steps == 1
    wanted = [targets.prototypes.prototypes[item.label * 2 + item.rank] for item in items]
    assert torch.equal(origin.latents, torch.stack(wanted))


def test_prototypes_are_needed(prior):
    with pytest.raises(ValueError, match="expected prototypes to start from, got None"):
        DistillModule(prior, SAMPLER, NoGuidance(), None, image_size=(8, 8), seed=0, at_once=8, start=HALF)


@pytest.mark.parametrize("guidance", [NoGuidance(), mode(), manifold()], ids=lambda each: type(each).__name__)
def test_batches_change_nothing_beyond_rounding_and_curves_have_the_steps_taken(prior, dataset, tmp_path, guidance):
    made = make(tmp_path / "8", dataset, prior, guidance, HALF)
    other = make(tmp_path / "3", dataset, prior, guidance, HALF, batch_size=3)
    assert int((made.images.int() - other.images.int()).abs().max()) <= 1
    steps = guidance_steps(made)
    assert made.manifest["images"][0]["prototype"]["size"] == 1
    if isinstance(guidance, NoGuidance):
        assert steps is None
    else:
        assert [step["index"] for step in steps["steps"]] == [1, 0]


def test_a_killed_run_continues_to_the_same_files(prior, dataset, tmp_path, monkeypatch):
    make(tmp_path / "whole", dataset, prior, manifold(), HALF)
    save, saved = SetWriter.save, []

    def dying(self, *args, **kwargs):
        if len(saved) == 11:
            raise Killed
        save(self, *args, **kwargs)
        saved.append(args)

    monkeypatch.setattr(SetWriter, "save", dying)
    with pytest.raises(Killed):
        make(tmp_path / "killed", dataset, prior, manifold(), HALF)
    monkeypatch.undo()
    make(tmp_path / "killed", dataset, prior, manifold(), HALF)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_the_command_starts_from_prototypes_without_guidance(tiny_prior, shared_cache, tmp_path, capsys):
    unguided, half = "guidance=none", "start.strength=0.7"
    assert quick("run", tiny_prior, shared_cache, tmp_path / "half", unguided, half) == 0
    assert "digits, none (from prototypes at 0.7), ipc 1" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "half" / "set" / "manifest.json").read_text())
    assert manifest["config"]["start"]["strength"] == 0.7
    assert "clusterer" in manifest["config"]  # the set depends on it now
    assert "prototype" in manifest["images"][0]
    assert quick("distill", tiny_prior, shared_cache, tmp_path / "full", unguided, "start.strength=1.0") == 0
    plain = json.loads((tmp_path / "full" / "set" / "manifest.json").read_text())
    assert set(plain["config"]) == {"dataset", "ipc", "source", "seed", "prior", "sampler", "guidance"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["start.strength=0"], "start.strength: expected a number in (0, 1], got 0"),
        (["start.strength=0.1"], "start.strength: needs to leave at least one of the 3 steps, got 0.1"),
        (["start.strength=little"], "start.strength: expected a number in (0, 1], got 'little'"),
        (["source=random", "start.strength=0.5"], "start.strength: only source=diffusion samples images, got 0.5"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_strengths_that_cannot_work(tiny_prior, shared_cache, tmp_path, capsys, changes, message):
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", *changes) == 2
    assert capsys.readouterr().err.startswith(f"manifoldgd: error: {message}")
    assert not (tmp_path / "r").exists()
