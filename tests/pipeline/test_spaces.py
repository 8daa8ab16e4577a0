"""Clustering spaces of features: what is computed, on what it depends, and that prototypes stay real latents."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from clusters import draws
from command import quick
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from prototypes_parts import CLUSTERERS
from sklearn.decomposition import PCA
from tiny import cpu, write_tiny_prior

from manifoldgd.cli.components import build, checked_node
from manifoldgd.cli.compose import conf_dir
from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.latents.features import transformer_features
from manifoldgd.pipeline import classifiers, latents, spaces
from manifoldgd.priors import load_prior
from manifoldgd.priors.denoiser import build_transformer
from manifoldgd.prototypes import ClassifierEmbedding, DenoiserFeatures, PrincipalComponents
from manifoldgd.prototypes.spaces import principal_components
from manifoldgd.store.classifiers import save_classifier
from manifoldgd.store.keys import key_of

SPACES = {
    "pca": PrincipalComponents(components=3),
    "denoiser": DenoiserFeatures(layer=0.5, timestep=50),
    "embedding": ClassifierEmbedding(),
}


@pytest.fixture(scope="module")
def prior(tiny_prior):
    """The tiny prior with a transformer of four blocks in place of one."""
    loaded = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    deep = build_transformer(latent_shape=(2, 4, 4), num_classes=10, width=8, heads=2, layers=4, patch_size=2)
    source = draws(5)
    with torch.no_grad():
        for each in deep.parameters():
            each.copy_(torch.randn(each.shape, generator=source) * 0.3)
    return dataclasses.replace(loaded, network=deep.requires_grad_(False))


@pytest.fixture(scope="module")
def encoded(dataset, prior, tmp_path_factory):
    return latents.encode(dataset, prior, cpu(), tmp_path_factory.mktemp("latents"))[0]


@pytest.fixture(scope="module")
def features(dataset, prior, encoded, tmp_path_factory):
    """A function from a space to its features, in a cache with a classifier that took a moment to train."""
    cache = tmp_path_factory.mktemp("features")

    def of(space, **machine):
        return spaces.features_of(space, dataset, prior, encoded, cpu(**machine), cache)

    network = classifiers.train_classifier(
        dataset.train.images(), dataset.train.labels, num_classes=10, mean=dataset.mean, std=dataset.std,
        seed=0, flip=False, recipe=quick_recipe(), progress=False, accelerator="cpu",
    )  # fmt: skip
    key = key_of("classifier", dataset.name, dataset.train_fingerprint, classifiers.CLASSIFIER_SEED)
    network.description["test_accuracy"] = 0.5
    of.cache = cache
    save_classifier(network, cache / "classifiers" / f"{key}.safetensors")
    return of


def quick_recipe():
    from manifoldgd.students import recipe

    return recipe.Recipe(**vars(recipe.STANDARD) | {"images_shown": 240, "width": 8})


@pytest.mark.parametrize("shape", [(60, 20), (15, 40)], ids=["more points", "more dimensions"])
def test_principal_components_are_scikit_learns(shape):
    points = torch.randn(shape, generator=draws()) * torch.linspace(3, 1, shape[1]) + 7
    before = points.clone()
    found = principal_components(points, 6)
    twin = PCA(6, svd_solver="full").fit_transform(points.numpy().astype(np.float64))
    np.testing.assert_allclose(found.abs().numpy(), np.abs(twin), atol=1e-4)
    assert torch.equal(points, before)
    assert found.dtype == torch.float32


def test_all_components_keep_all_distances():
    points = torch.randn(30, 8, generator=draws())
    kept = principal_components(points, 8)
    torch.testing.assert_close(torch.pdist(kept), torch.pdist(points), atol=1e-5, rtol=1e-5)
    for count in (0, 9):
        with pytest.raises(ValueError, match=rf"count: expected 1 \.\.\. 8, got {count}"):
            principal_components(points, count)


def test_components_are_those_of_each_class_for_itself(encoded, features):
    found = features(SPACES["pca"]).load()
    for label in range(10):
        rows = encoded.indices_of(label)
        twin = PCA(3, svd_solver="full").fit_transform(encoded.latents[rows].flatten(1).numpy().astype(np.float64))
        np.testing.assert_allclose(found[rows].abs().numpy(), np.abs(twin), atol=1e-4)


def test_denoiser_features_are_what_the_block_puts_out(prior, encoded, features):
    """An independent way to them: a hook on the whole transformer."""
    held = []
    handle = prior.network.transformer_blocks[1].register_forward_hook(lambda *call: held.append(call[-1]))
    noise = torch.randn(2, 4, 4, generator=module_noise(50))
    signal = float(torch.cumprod(1 - prior.schedule.betas, 0)[50])
    x_t = signal**0.5 * encoded.latents + (1 - signal) ** 0.5 * noise
    prior.network(x_t, timestep=torch.full((len(x_t),), 50), class_labels=encoded.labels)
    handle.remove()
    torch.testing.assert_close(features(SPACES["denoiser"]).load(), held[0].mean(1), atol=1e-5, rtol=1e-4)


def module_noise(timestep):
    from manifoldgd.randomness import generator

    return generator("clustering space", "noise", timestep)


def computed(prior, encoded, *, layer=0.5, timestep=50, batch_size=64):
    return transformer_features(
        prior,
        encoded.latents,
        encoded.labels,
        timestep=timestep,
        blocks=DenoiserFeatures(layer=layer, timestep=timestep).blocks(4),
        batch_size=batch_size,
        on_batch=lambda: None,
        trainer=cpu().trainer(enable_progress_bar=False),
    )


def test_denoiser_features_depend_on_layer_and_timestep_and_not_on_the_batch(prior, encoded):
    whole = computed(prior, encoded)
    assert torch.equal(computed(prior, encoded), whole)  # the noise is keyed
    for size in (1, 7):
        torch.testing.assert_close(computed(prior, encoded, batch_size=size), whole, atol=1e-5, rtol=1e-4)
    for change in ({"layer": 1.0}, {"timestep": 300}):
        assert (computed(prior, encoded, **change) - whole).abs().max() > 0.01


def test_a_layer_is_a_share_of_the_blocks():
    shares = {0.01: (1, 1), 0.5: (1, 3), 0.75: (1, 4), 1: (1, 6)}
    for share, blocks in shares.items():
        assert tuple(DenoiserFeatures(layer=share, timestep=0).blocks(count) for count in (1, 6)) == blocks


def test_embeddings_are_the_classifiers(dataset, features):
    found = features(SPACES["embedding"]).load()
    network = classifiers.embedding_network(dataset, cpu(), features.cache)
    torch.testing.assert_close(found, network.embed(dataset.train.images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPACES)
def test_features_are_computed_once_and_found_by_what_they_depend_on(features, monkeypatch, name):
    found = features(SPACES[name])
    values = found.load()

    def never(*args, **kwargs):
        raise AssertionError("computed again")

    for function in ("_components", "_denoiser", "_embedding"):
        monkeypatch.setattr(spaces, function, never)
    again = features(SPACES[name], batch_size=3)
    assert again.key == found.key
    assert torch.equal(again.load(), values)
    others = [features(each).key for each in (*SPACES.values(), PrincipalComponents(components=4))]
    others += [features(DenoiserFeatures(layer=layer, timestep=t)).key for layer, t in ((0.5, 51), (0.6, 50))]
    assert len(set(others)) == len(others)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("clusterer", CLUSTERERS)
@pytest.mark.parametrize("representative", ["nearest", "centroid"])
def test_prototypes_are_latents_of_their_class(encoded, features, tmp_path, space, clusterer, representative):
    method = CLUSTERERS[clusterer](space=SPACES[space], representative=representative)
    found, _ = latents.cluster(
        encoded, method, {}, features(SPACES[space]), ipc=3, seed=0, machine=cpu(), cache=tmp_path
    )
    assert found.prototypes.shape == (30, 2, 4, 4)
    assert torch.equal(encoded.labels[found.nearest], found.labels)
    if representative == "nearest":
        assert torch.equal(found.prototypes, encoded.latents[found.nearest])
    else:
        values = torch.stack([encoded.latents[encoded.labels == label].amax(0) for label in range(10)])
        assert bool((found.prototypes <= values[found.labels] + 1e-5).all())  # means of members of the class


def test_features_decide_what_is_similar(encoded):
    """Two groups that only the features know."""
    latent = encoded.latents[encoded.labels == 0]
    group = torch.arange(len(latent)) % 2
    method = CLUSTERERS["divisive"](space=SPACES["embedding"], representative="centroid")
    found = method(latent, 2, draws(), group[:, None].float())
    means = {tuple(latent[group == each].mean(0).flatten().tolist()) for each in (0, 1)}
    assert {tuple(each.flatten().tolist()) for each in found.prototypes} == means
    assert sorted(group[found.nearest].tolist()) == [0, 1]


@pytest.mark.parametrize("clusterer", CLUSTERERS)
def test_features_change_nothing_for_raw_latents(encoded, tmp_path, clusterer):
    method = CLUSTERERS[clusterer]()
    assert method.space.features is None
    latent = encoded.latents[:12]
    plain = method(latent, 3, draws())
    given = method(latent, 3, draws(), torch.randn(12, 2, generator=draws(8)))
    assert torch.equal(plain.nearest, given.nearest)
    assert torch.equal(plain.prototypes, given.prototypes)
    found, _ = latents.cluster(encoded, method, {"a": 1}, None, ipc=3, seed=4, machine=cpu(), cache=tmp_path)
    assert found.key == key_of("prototypes", encoded.key, {"a": 1}, 3, 4)  # as before there were features


def test_features_that_are_missing_or_not_finite_are_refused(encoded):
    method = CLUSTERERS["kmeans"](space=SPACES["embedding"])
    for given in (None, torch.zeros(3, 2), torch.zeros(12)):
        with pytest.raises(ValueError, match=r"features: expected \[n, E\] of the 12 images, got"):
            method(encoded.latents[:12], 2, draws(), given)
    with pytest.raises(UserError, match=r"space: expected finite features, got NaN"):
        method(encoded.latents[:12], 2, draws(), torch.full((12, 2), torch.nan))


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_default_configuration_says_nothing_of_features():
    assert composed().clusterer == {
        "_target_": "manifoldgd.prototypes.Divisive",
        "criterion": "sse",
        "representative": "nearest",
        "space": {"_target_": "manifoldgd.prototypes.RawLatents"},
        "restarts": 10,
    }


@pytest.mark.parametrize("clusterer", CLUSTERERS)
@pytest.mark.parametrize(("name", "kind"), [(name, type(space)) for name, space in SPACES.items()])
def test_every_clusterer_takes_every_space(clusterer, name, kind):
    config = composed(f"clusterer={clusterer}", f"clusterer/space={name}")
    checked_node(config, "clusterer")
    assert isinstance(build(config, "clusterer").space.features, kind)
    assert set(config.clusterer.space) == {"_target_", *(field.name for field in dataclasses.fields(kind))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["pca", "components=0"], "clusterer.space.components: expected a whole number in [1, 65536], got 0"),
        (["pca", "components=1.5"], "clusterer.space.components: expected a whole number in [1, 65536], got 1.5"),
        (["pca", "components=33"], "clusterer.space.components: expected at most the 32 numbers of a latent"),
        (["denoiser", "layer=0"], "clusterer.space.layer: expected a number in (0, 1], got 0"),
        (["denoiser", "layer=3"], "clusterer.space.layer: expected a number in (0, 1], got 3"),
        (["denoiser", "timestep=-1"], "clusterer.space.timestep: expected a whole number in [0, 9999], got -1"),
        (["denoiser", "timestep=1000"], "clusterer.space.timestep: expected at most 999, the last of prior"),
        (["pooled", "pool=0"], "clusterer.space.pool: expected a whole number in [1, 256], got 0"),
        (
            ["nowhere"],
            "clusterer/space: no choice named 'nowhere'; expected one of denoiser, embedding, pca, pooled, raw",
        ),
    ],
    ids=str,
)
def test_bad_numbers_are_named(tiny_prior, shared_cache, tmp_path, capsys, changes, message):
    name, *numbers = changes
    given = [f"clusterer/space={name}", *(f"clusterer.space.{each}" for each in numbers)]
    assert quick("distill", tiny_prior, shared_cache, tmp_path / "o", *given) == 2
    assert capsys.readouterr().err.startswith(f"manifoldgd: error: {message}")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("space", SPACES)
def test_a_whole_run(tiny_prior, shared_cache, tmp_path, space):
    folder = tmp_path / "o"
    assert quick("distill", tiny_prior, shared_cache, folder, f"clusterer/space={space}", "guidance=mode") == 0
    manifest = json.loads((folder / "set" / "manifest.json").read_text())
    assert manifest["config"]["clusterer"]["space"]["_target_"].startswith("manifoldgd.prototypes.")
    labels = digits(train_per_class=None, validation=None).train.labels
    rows = [image["prototype"]["nearest_train_image"] for image in manifest["images"]]
    assert labels[rows].tolist() == list(range(10))
    assert len(list((shared_cache / "features").glob("*.safetensors"))) >= 1


def test_another_prior_has_other_features(dataset, encoded, tmp_path):
    folder = write_tiny_prior(tmp_path / "p", seed=8)
    other = load_prior(path=str(folder), autoencoder=None, cfg_scale=None, cfg_channels=None)
    mine, _ = latents.encode(dataset, other, cpu(), tmp_path)
    keys = {
        name: [spaces.features_of(space, dataset, other, each, cpu(), tmp_path).key for each in (encoded, mine)]
        for name, space in SPACES.items()
    }
    assert {name: len(set(each)) for name, each in keys.items()} == {"pca": 2, "denoiser": 2, "embedding": 1}
