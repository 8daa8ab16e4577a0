"""Sets synthesised with matching guidance: batches, interruptions, Lightning, and what the command line says."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from command import quick
from distill_parts import Killed, contents, mode, targets_of
from matching_runs_parts import SAMPLER, guidance, make
from tiny import cpu

from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.distill.synthesis import fixed_batches, synthesise
from manifoldgd.pipeline.evaluation import guidance_steps
from manifoldgd.pipeline.real_side import RealImages
from manifoldgd.store.sets import SetWriter


@pytest.fixture(scope="module")
def matching(dataset, tmp_path_factory):
    return guidance().then.prepare(RealImages(dataset, cpu(), tmp_path_factory.mktemp("cache")))


def pixels_of(prior, dataset, matching, batch_size):
    """Images of a set before their rounding to uint8, which would hide small differences."""
    method = guidance()
    raw = dataclasses.replace(prior)
    object.__setattr__(raw, "decode", lambda latents, size: prior.decode_pixels(latents, size))
    targets = targets_of(dataset, prior, method)
    module = DistillModule(raw, SAMPLER, method, targets, matching, image_size=(8, 8), seed=0, at_once=64)
    items, found = work_items(dataset.class_names, range(10), 2), {}

    def save(batch):
        found.update({(item.class_name, item.rank): x for item, x in zip(batch.items, batch.images, strict=True)})

    trainer = cpu().trainer(enable_progress_bar=False, inference_mode=False)
    synthesise(module, fixed_batches(items, batch_size, together="class"), save, trainer=trainer)
    return torch.stack([found[item.class_name, item.rank] for item in items])


def test_batch_size_changes_nothing_beyond_rounding(prior, dataset, matching):
    whole = pixels_of(prior, dataset, matching, 64)
    for size in (1, 7):
        torch.testing.assert_close(pixels_of(prior, dataset, matching, size), whole, atol=2e-3, rtol=2e-3)


def test_sets_are_matched_under_lightning(prior, dataset, matching, tmp_path):
    matched = make(tmp_path / "matched", dataset, prior, matching)
    plain = make(tmp_path / "plain", dataset, prior, matching, method=mode())
    idle = make(tmp_path / "idle", dataset, prior, matching, method=guidance(rate=0))
    assert torch.equal(idle.images, plain.images)
    assert not torch.equal(matched.images, plain.images)

    def energy(made):
        pixels = made.images.float().div(127.5).sub(1)
        return float(sum(matching(lambda z: z, made.labels)(pixels, draw) for draw in range(2)))

    assert energy(matched) < energy(plain)


def test_a_killed_run_continues_to_the_same_files(prior, dataset, matching, tmp_path, monkeypatch):
    make(tmp_path / "whole", dataset, prior, matching)
    save, saved = SetWriter.save, []

    def dying_save(self, *args, **kwargs):
        if len(saved) == 5:
            raise Killed
        save(self, *args, **kwargs)
        saved.append(args)

    monkeypatch.setattr(SetWriter, "save", dying_save)
    with pytest.raises(Killed):
        make(tmp_path / "killed", dataset, prior, matching)
    monkeypatch.undo()
    make(tmp_path / "killed", dataset, prior, matching)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_curves_hold_no_infinity_where_there_is_no_noise(prior, dataset, matching, tmp_path):
    manifest = make(tmp_path / "s", dataset, prior, matching).manifest
    for row in manifest["images"]:
        assert [value is not None for value in row["guidance"]["ratio"]] == [True, True, True, False]
    json.dumps(manifest, allow_nan=False)
    first = manifest["images"][0]["guidance"]["ratio"]
    first[-1] = float("inf")  # as sets of older versions have it
    steps = {step["index"]: step for step in guidance_steps(SimpleNamespace(manifest=manifest))["steps"]}
    assert steps[0]["ratio_mean"] is None
    assert steps[1]["ratio_mean"] > 0


MATCH = ("guidance=matching", "guidance.then.inner_steps=1", "guidance.then.networks=1", "guidance.then.width=4")


def test_the_command_runs_and_names_the_method(tiny_prior, shared_cache, tmp_path, capsys):
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", *MATCH, "guidance.then.t_start=1") == 0
    assert "digits, matching, ipc 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["method"] == "matching"
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["guidance.then.rate=-1"], "guidance.then.rate: expected a number in [0, 1], got -1"),
        (["guidance.then.t_start=10"], "guidance.then.t_start: expected a number in [0, 1], got 10"),
        (["guidance.first.bandwidth=0"], "guidance.first.bandwidth: expected a number in [0.001, 1000], got 0"),
        (["guidance.then.rat=1"], "unknown key 'guidance.then.rat'; did you mean 'guidance.then.rate'?"),
        (["guidance.rate=1"], "unknown key 'guidance.rate'; did you mean 'guidance.then.rate'?"),
        (["guidance.scale=-1"], "guidance.scale: expected a number in [0, 1000] or null, got -1"),
        (["guidance.kernel=rbf"], "unknown key 'guidance.kernel'; other choices of guidance have it"),
        (["+guidance.then.rat=1"], "unknown key 'guidance.then.rat'; did you mean 'rate'?"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_bad_numbers_are_named_in_full(tiny_prior, shared_cache, tmp_path, capsys, changes, message):
    assert quick("run", tiny_prior, shared_cache, tmp_path / "r", "guidance=matching", *changes) == 2
    assert capsys.readouterr().err.startswith(f"manifoldgd: error: {message}")
    assert not (tmp_path / "r").exists()
