"""What a page needs is made of the images that it shows, however many a set has."""

import pytest
import torch
from tiny import cpu

from manifoldgd.artifacts import DistilledSet
from manifoldgd.data import digits
from manifoldgd.pipeline import pages
from manifoldgd.pipeline.sets import encode_images
from manifoldgd.priors import load_prior
from manifoldgd.report.run import SHOWN_RANKS

IPC = SHOWN_RANKS + 5


@pytest.mark.parametrize(("points", "real", "own"), [(40_000, 6, IPC), (160, 6, 2), (20, 2, 1)])
def test_a_page_decodes_what_it_shows_and_maps_a_bounded_part(tiny_prior, tmp_path, monkeypatch, points, real, own):
    dataset = digits(train_per_class=6, validation=None)
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    labels, ranks = torch.arange(10).repeat_interleave(IPC), torch.arange(IPC).repeat(10)
    images = torch.randint(0, 256, (10 * IPC, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(images, labels, ranks, dataset.class_names)
    prototypes = prior.encode(images)
    drawn = {}
    monkeypatch.setattr(pages, "MAP_POINTS", points)
    monkeypatch.setattr("manifoldgd.report.run.write_run_report", lambda folder, **given: drawn.update(given))

    config = {"machine": cpu(), "cache": tmp_path, "config_text": ""}
    pages.write(tmp_path, {"guidance": None}, distilled, dataset, prior, prototypes, **config)

    shown, mapped = ranks < SHOWN_RANKS, ranks < own
    assert torch.equal(drawn["prototypes_images"], prior.decode(prototypes[shown], (8, 8)))
    found = drawn["latents"]
    assert found["real_labels"].bincount().tolist() == [real] * 10
    for kind in ("prototype", "synthetic"):
        assert torch.equal(found[f"{kind}_labels"], labels[mapped])
    assert torch.equal(found["prototypes"], prototypes[mapped])
    torch.testing.assert_close(found["synthetic"], encode_images(prior, images[mapped]))
