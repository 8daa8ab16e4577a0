"""Synthesis: what an image depends on, what it does not, and what is left when a process is killed."""

import dataclasses
import errno
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from distill_parts import SAMPLER, Killed, contents, make, manifold, mode, targets_of
from tiny import IMAGENET_LIKE, cpu, distil

from manifoldgd.artifacts import Key
from manifoldgd.dataset import ImageDataset, in_memory_split
from manifoldgd.diffusion import DDIM, DDPM
from manifoldgd.distill.items import work_items
from manifoldgd.distill.module import DistillModule
from manifoldgd.distill.synthesis import Saving, fixed_batches, synthesise
from manifoldgd.errors import RunError
from manifoldgd.guidance import ManifoldReleasedGuidance, NoGuidance
from manifoldgd.pipeline import distillation
from manifoldgd.pipeline.sets import reconstruct
from manifoldgd.priors import load_prior
from manifoldgd.priors.prior import Prior
from manifoldgd.store.sets import SetWriter

NAMES = tuple("0123456789")


def released(scale=0.3):
    return ManifoldReleasedGuidance(
        scale=scale,
        manifold_scale=0.0 if scale == 0 else 0.1,
        radius=0.05,
        distance_bandwidth=0.2,
        cloud_size=20,
        neighbours=6,
        tangent_dim=2,
        annealing="exponential",
        warmup_steps=2,
        max_multiplier=2.0,
        t_stop=0.2,
    )


def latents_of(prior, dataset, guidance, batch_size, items=None):
    """Images before rounding to uint8 would hide small differences: the module's decoder is replaced by nothing."""
    raw = dataclasses.replace(prior)
    object.__setattr__(raw, "decode", lambda latents, size: latents)
    module = DistillModule(
        raw, SAMPLER, guidance, targets_of(dataset, prior, guidance), image_size=(8, 8), seed=0, at_once=64
    )
    items = items or work_items(dataset.class_names, range(10), 2)
    found = {}

    def save(batch):
        for item, image in zip(batch.items, batch.images, strict=True):
            found[item.class_name, item.rank] = image

    synthesise(
        module,
        fixed_batches(items, batch_size, together=None),
        save,
        trainer=cpu().trainer(enable_progress_bar=False),
    )
    return found


@pytest.mark.parametrize("guidance", [mode(), manifold(), released()], ids=lambda each: type(each).__name__)
def test_batch_size_and_class_order_change_nothing_beyond_rounding(prior, dataset, guidance):
    whole = latents_of(prior, dataset, guidance, 64)
    assert len(whole) == 20
    items = work_items(dataset.class_names, range(10), 2)
    for other in (
        latents_of(prior, dataset, guidance, 1),
        latents_of(prior, dataset, guidance, 7),
        latents_of(prior, dataset, guidance, 7, items[::-1]),
    ):
        for key, latent in whole.items():
            torch.testing.assert_close(other[key], latent, atol=2e-4, rtol=2e-4)
    distinct = torch.stack(list(whole.values())).flatten(1)
    assert float(torch.pdist(distinct).min()) > 1e-2


@pytest.mark.parametrize("sampler", [SAMPLER, DDIM(steps=4, eta=0.0, cfg_scale=2.0)], ids=["ddpm", "ddim"])
def test_no_strength_is_no_guidance_bit_for_bit(prior, dataset, tmp_path, sampler):
    plain = make(tmp_path / "none", dataset, prior, NoGuidance(), sampler=sampler, guided=False)
    for build in (mode, manifold, released):
        idle = make(tmp_path / build.__name__, dataset, prior, build(0.0), sampler=sampler)
        assert torch.equal(idle.images, plain.images)
        acting = make(tmp_path / f"{build.__name__}-acts", dataset, prior, build(0.5), sampler=sampler)
        assert not torch.equal(acting.images, plain.images)


def test_the_seed_matters(prior, dataset, tmp_path):
    first, second = (
        make(tmp_path / str(seed), dataset, prior, NoGuidance(), seed=seed, guided=False) for seed in (0, 1)
    )
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("images", [3, 8, 20], ids=["inside a batch", "between batches", "before the manifest"])
def test_a_killed_run_continues_to_the_same_files(prior, dataset, tmp_path, monkeypatch, images):
    make(tmp_path / "whole", dataset, prior, manifold())
    save, finish, saved = SetWriter.save, SetWriter.finish, []

    def dying_save(self, *args, **kwargs):
        if len(saved) == images:
            raise Killed
        save(self, *args, **kwargs)
        saved.append(args)

    def dying_finish(self, **kwargs):
        raise Killed

    monkeypatch.setattr(SetWriter, "save", dying_save)
    monkeypatch.setattr(SetWriter, "finish", dying_finish)
    with pytest.raises(Killed):
        make(tmp_path / "killed", dataset, prior, manifold())
    assert len(saved) == images
    assert not (tmp_path / "killed" / "manifest.json").exists()
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(SetWriter, "save", lambda self, *a, **k: (calls.append(a), save(self, *a, **k)))
    make(tmp_path / "killed", dataset, prior, manifold())
    assert len(calls) == {3: 20, 8: 12, 20: 0}[images]  # whole batches are sampled again, finished ones are not
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert finish is SetWriter.finish


def test_a_complete_set_is_read_and_not_made(prior, dataset, tmp_path):
    first = make(tmp_path / "s", dataset, prior, NoGuidance(), guided=False)
    broken = dataclasses.replace(prior, network=None)
    again = distil(tmp_path / "s", dataset, broken, SAMPLER, NoGuidance(), None, ipc=2, seed=0, machine=cpu(), facts={})
    assert torch.equal(first.images, again.images)


def test_the_manifest_says_what_each_image_came_from(prior, dataset, tmp_path):
    made = make(tmp_path / "s", dataset, prior, manifold())
    manifest = made.manifest
    assert manifest["prior_labels"] == {name: int(name) for name in NAMES}
    assert manifest["seed"] == 0
    row = manifest["images"][5]  # class 2, rank 1
    assert (row["label"], row["rank"], row["prior_label"]) == (2, 1, 2)
    assert row["prototype"] == {
        "nearest_train_image": int((dataset.train.labels == 2).nonzero()[1]),
        "depth": 0,
        "size": 1,
    }
    ratio, kept = row["guidance"]["ratio"], row["guidance"]["kept"]
    assert [value is not None for value in ratio] == [True, True, False, False]  # index > round(0.2 * 4)
    assert all(0 <= value <= 1 for value in kept[:2])
    assert kept[2:] == [None, None]


def test_prior_labels_are_what_the_denoiser_sees(prior, dataset, tmp_path):
    swapped = dataclasses.replace(dataset, prior_labels={name: 9 - int(name) for name in NAMES})
    plain = make(tmp_path / "a", dataset, prior, NoGuidance(), guided=False)
    other = make(tmp_path / "b", swapped, prior, NoGuidance(), guided=False)
    assert other.manifest["images"][0]["prior_label"] == 9
    assert not torch.equal(plain.images, other.images)


def imagenet_like():
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = in_memory_split(images, torch.arange(2).repeat_interleave(6))
    names = ("English springer", "church")
    return ImageDataset("woof", names, (3, 8, 8), split, split, (0.5,) * 3, (0.2,) * 3, True, Key("f"), Key("f"))


@pytest.mark.parametrize("guidance", [NoGuidance(), mode(), released()], ids=lambda each: type(each).__name__)
def test_a_dit_lookalike_samples(dit_lookalike, tmp_path, guidance):
    dit = load_prior(path=str(dit_lookalike), autoencoder=None, cfg_scale=4.0, cfg_channels=3)
    made = make(tmp_path / "s", imagenet_like(), dit, guidance, sampler=DDPM(steps=4, cfg_scale=None))
    assert made.images.shape == (4, 3, 8, 8)
    springer, church = IMAGENET_LIKE.index("English springer, English springer spaniel"), 8
    assert made.manifest["prior_labels"] == {"English springer": springer, "church": church}
    all_channels = dataclasses.replace(dit, cfg_channels=4)
    other = make(tmp_path / "t", imagenet_like(), all_channels, guidance, sampler=DDPM(steps=4, cfg_scale=None))
    assert not torch.equal(made.images, other.images)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "processor": RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
@pytest.mark.parametrize("method", ["denoise", "decode"])
def test_what_does_not_fit_is_done_in_halves_to_the_same_bits(
    prior, dataset, tmp_path, monkeypatch, capsys, error, method
):
    whole = make(tmp_path / "whole", dataset, prior, manifold())
    rows, real = [], getattr(Prior, method)

    def small(self, tensors, *more):
        rows.append(len(tensors))
        if len(tensors) > (8 if method == "denoise" else 4):  # the denoiser sees each image with its class and without
            raise error
        return real(self, tensors, *more)

    monkeypatch.setattr(Prior, method, small)
    made = make(tmp_path / "halves", dataset, prior, manifold())
    assert torch.equal(made.images, whole.images)
    # Of batches of 8, 8 and 4 images: tried once, and from there on in halves.
    expected = [16, *[8] * (2 * 4 + 2 * 4 + 4)] if method == "denoise" else [8, 4, 4, 4, 4, 4]
    assert rows == expected
    assert capsys.readouterr().err.count("8 rows are more than memory holds; 4 at a time") == 1
    assert contents(tmp_path / "halves") == contents(tmp_path / "whole")


def test_a_row_that_does_not_fit_ends_the_run_in_one_line(prior, dataset, tmp_path, monkeypatch):
    def full(*given):
        raise OUT_OF_MEMORY["cuda"]

    monkeypatch.setattr(type(mode()), "bind", lambda self, anchors: full)
    with pytest.raises(RunError, match=r"^guidance: .* 8 images at once .*machine\.batch_size"):
        make(tmp_path / "s", dataset, prior, mode())
    monkeypatch.setattr(Prior, "denoise", full)
    with pytest.raises(RunError, match=r"^sampling: a single row .* machine\.precision"):
        make(tmp_path / "s", dataset, prior, NoGuidance(), guided=False)


def test_large_images_are_decoded_fewer_at_a_time_than_sampled(prior):
    def decoded_at_once(side):
        module = DistillModule(prior, SAMPLER, NoGuidance(), None, image_size=(side, side), seed=0, at_once=64)
        return module._decoded_at_once.rows

    assert [decoded_at_once(side) for side in (8, 128, 256, 4096)] == [64, 64, 16, 1]


def test_images_are_written_while_the_next_batch_is_sampled(prior, dataset, tmp_path, monkeypatch):
    """Writing waits for the next batch's first step: were it not beside it, neither would ever go on."""
    sampled, save, denoise = threading.Event(), SetWriter.save, Prior.denoise
    steps = []

    def counted(self, *given):
        steps.append(given)
        if len(steps) > SAMPLER.steps:
            sampled.set()
        return denoise(self, *given)

    def patient(self, *args, **facts):
        assert sampled.wait(timeout=60)
        save(self, *args, **facts)

    monkeypatch.setattr(Prior, "denoise", counted)
    monkeypatch.setattr(SetWriter, "save", patient)
    made = make(tmp_path / "s", dataset, prior, NoGuidance(), guided=False)
    assert len(made.images) == 20


class TestSaving:
    def test_is_in_order_and_done_when_the_block_ends(self):
        done = []
        with Saving() as saving:
            for number in range(100):
                saving(done.append, number)
        assert done == list(range(100))

    def test_a_failure_reaches_who_saves_and_nothing_after_it_is_done(self):
        done = []

        def save(number):
            if number == 3:
                raise OSError(errno.ENOSPC, "No space left on device", "set/0.png")
            done.append(number)

        with pytest.raises(OSError, match="No space left"), Saving() as saving:  # noqa: PT012
            for number in range(1000):
                saving(save, number)
        assert done == [0, 1, 2]

    def test_it_waits_where_too_much_is_left(self, monkeypatch):
        monkeypatch.setattr("manifoldgd.distill.synthesis.SAVES_LEFT", 2)
        go, done = threading.Event(), []
        with Saving() as saving:
            for number in range(2):
                saving(lambda number: (go.wait(60), done.append(number)), number)
            assert done == []
            threading.Timer(0.05, go.set).start()
            saving(done.append, 2)
            assert done[:1] == [0]
        assert done == [0, 1, 2]

    def test_an_error_of_the_block_keeps_what_was_given_and_is_the_one_told(self):
        done = []

        def fails():
            raise OSError("later")

        with pytest.raises(RunError, match="first"), Saving() as saving:  # noqa: PT012
            saving(done.append, 0)
            saving(fails)
            raise RunError("first")
        assert done == [0]

    def test_a_stop_waits_for_a_moment_only(self, monkeypatch):
        monkeypatch.setattr("manifoldgd.distill.synthesis.GRACE_SECONDS", 0.05)
        done, started = [], time.monotonic()
        with pytest.raises(Killed), Saving() as saving:  # noqa: PT012
            for number in range(200):
                saving(lambda number: (time.sleep(0.02), done.append(number)), number)
            raise Killed
        assert time.monotonic() - started < 2
        assert done == list(range(len(done)))
        assert 0 < len(done) < 200


def test_fixed_batches_do_not_depend_on_what_is_done():
    items = work_items(("a", "b"), (0, 1), 5)
    assert [len(batch) for batch in fixed_batches(items, 4, together=None)] == [4, 4, 2]
    assert [item for batch in fixed_batches(items, 4, together=None) for item in batch] == items


@pytest.mark.parametrize(("size", "batches"), [(1, [5, 5, 5]), (9, [5, 5, 5]), (10, [10, 5]), (64, [15])])
def test_batches_of_whole_classes_hold_every_image_of_each(size, batches):
    items = work_items(("a", "b", "c"), (0, 1, 2), 5)
    assert [len(batch) for batch in fixed_batches(items, size, together="class")] == batches


def chosen(folder, dataset, prior, source, **changes):
    numbers = {"reconstruct": False, "ipc": 2, "seed": 0, "machine": cpu(), "cache": folder, "facts": {}}
    return distillation.choose(folder, dataset, source, prior, **{**numbers, **changes})


@pytest.mark.parametrize("source", ["random", "herding", "k_center", "kmeans_nearest"])
def test_real_sets_are_training_images_and_never_test_images(prior, dataset, monkeypatch, tmp_path, source):
    def forbidden(positions):
        raise AssertionError("the test split was read")

    # A classifier would take a while.
    pixels = SimpleNamespace(embed=lambda images: images.flatten(1).float(), at_once=50)
    monkeypatch.setattr(distillation, "embedding_network", lambda *_: pixels)
    hidden = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, load=forbidden))
    made = chosen(tmp_path, hidden, prior, source)
    rows = torch.tensor([row["train_image"] for row in made.manifest["images"]])
    assert torch.equal(made.images, dataset.train.load(rows))
    assert torch.equal(dataset.train.labels[rows], made.labels)
    assert len(set(rows.tolist())) == 20


def test_reconstructed_sets_went_through_the_autoencoder(prior, dataset, tmp_path):
    plain = chosen(tmp_path / "a", dataset, None, "random")
    through = chosen(tmp_path / "b", dataset, prior, "random", reconstruct=True)
    assert torch.equal(through.images, reconstruct(prior, plain.images))
    assert torch.equal(reconstruct(prior, plain.images, chunk=3), through.images)
    assert not torch.equal(through.images, plain.images)
