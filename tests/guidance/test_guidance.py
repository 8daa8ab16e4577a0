"""The guidance methods: what they pull, when they act, and what they do to whole samples."""

import dataclasses

import pytest
import torch
from guidance_parts import (
    ESTIMATORS,
    MANIFOLD,
    MODE,
    RELEASED,
    SAMPLERS,
    SHAPE,
    D,
    anchors,
    draw,
    everything,
    keys,
    randn,
    step,
)

from manifoldgd.diffusion import DDPM
from manifoldgd.diffusion.protocol import Anchors
from manifoldgd.geometry.tangent import energy_kept
from manifoldgd.guidance import ManifoldGuidance, ManifoldReleasedGuidance, ModeGuidance, NoGuidance
from manifoldgd.guidance.manifold_released import normal_pull
from manifoldgd.guidance.tangents import project_on_cloud
from manifoldgd.store.recorded import as_recorded

# Pulls


@pytest.mark.parametrize(("kernel", "toward"), [("rbf", 1 / 0.49), ("laplace", None), ("imq", None)])
def test_mode_guidance_points_to_the_prototype(kernel, toward):
    bound, now = ModeGuidance(**MODE | {"kernel": kernel, "bandwidth": 0.7, "scale": 0.3}).bind(anchors(5)), step()
    pull = bound(now)
    assert pull.plain is None
    assert pull.kept is None
    difference = (anchors(5).prototypes - now.x0).flatten(1)
    r = difference.norm(dim=1, keepdim=True)
    factor = {"rbf": torch.full_like(r, toward or 0), "laplace": 1 / (0.7 * r), "imq": 1 / (r**2 + 0.49)}[kernel]
    torch.testing.assert_close(pull.scaled.flatten(1), 0.3 * factor * difference)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_manifold_guidance_is_a_projection_of_mode_guidance(estimator):
    bound, now = ManifoldGuidance(**MANIFOLD | {"estimator": estimator}).bind(anchors(5)), step()
    pull = bound(now)
    mode = ModeGuidance(**MODE).bind(anchors(5))(now).scaled.flatten(1)
    ours = pull.scaled.flatten(1)
    # An orthogonal projection: what it removed is orthogonal to what it kept.
    torch.testing.assert_close((ours * (mode - ours)).sum(1), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(pull.kept, energy_kept(mode, ours), rtol=1e-4, atol=1e-6)
    assert ((pull.kept > 0) & (pull.kept < 1)).all()
    assert pull.plain is None


@pytest.mark.parametrize("estimator", ["clean", "posterior"])
def test_pull_lies_in_the_span_of_the_neighbours_differences(estimator):
    plane = torch.linalg.qr(randn(D, 4, seed=9))[0]
    own = anchors(3)
    flat = Anchors(own.prototypes, own.prototypes.flatten(1)[:, None] + randn(3, 24, 4, seed=8) @ plane.T)
    pull = ManifoldGuidance(**MANIFOLD | {"estimator": estimator}).bind(flat)(step(count=3))
    mode = ModeGuidance(**MODE).bind(flat)(step(count=3)).scaled.flatten(1)
    torch.testing.assert_close(pull.scaled.flatten(1), mode @ plane @ plane.T, rtol=1e-3, atol=1e-4)


def test_noised_estimator_is_the_papers_formula_on_recorded_noise():
    method, now, own = ManifoldGuidance(**MANIFOLD | {"estimator": "noised"}), step(index=20), anchors(5)
    noise = now.noise.normal("neighbours", 20, (12, D))
    cloud = 0.4**0.5 * own.neighbourhoods[:, :12] + 0.6**0.5 * noise
    mode = (own.prototypes - now.x0).flatten(1)
    expected = 0.1 * project_on_cloud(mode, now.x_t.flatten(1), cloud, 10, 4)
    torch.testing.assert_close(method.bind(own)(now).scaled.flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_another_generator_draws_another_cloud_by_the_same_formula():
    method, now, own = ManifoldGuidance(**MANIFOLD | {"estimator": "noised"}), step(index=20), anchors(5)
    other = dataclasses.replace(method, generator="philox4x32-10")
    cloud = now.noise.normal("neighbours", 20, (12, D), "philox4x32-10")
    cloud = 0.4**0.5 * own.neighbourhoods[:, :12] + 0.6**0.5 * cloud
    expected = 0.1 * project_on_cloud((own.prototypes - now.x0).flatten(1), now.x_t.flatten(1), cloud, 10, 4)
    found = other.bind(own)(now).scaled.flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, method.bind(own)(now).scaled.flatten(1), rtol=1e-2)


def test_the_recorded_words_name_a_generator_where_it_is_not_torchs():
    assert as_recorded({"guidance": {"scale": 1, "generator": None}}) == {"guidance": {"scale": 1}}
    assert as_recorded({"guidance": {"generator": "philox4x32-10"}}) == {"guidance": {"generator": "philox4x32-10"}}


def test_noise_drowns_the_tangent_space_and_clean_neighbours_do_not():
    """Data on a plane of 3 of 24 dimensions, prototypes on it: clean keeps what lies in it, noised a random share."""
    plane, count = torch.linalg.qr(randn(D, 3, seed=9))[0], 64
    points = (randn(count, 24, 3, seed=2) @ plane.T) * 0.3
    own = Anchors(points[:, 0].view(-1, *SHAPE), points)
    now = dataclasses.replace(
        step(count=count, alpha_bar=0.05), x0=(randn(count, 3, seed=5) @ plane.T).view(-1, *SHAPE)
    )
    numbers = MANIFOLD | {"tangent_dim": 3}
    kept = {
        name: float(ManifoldGuidance(**numbers | {"estimator": name}).bind(own)(now).kept.mean()) for name in ESTIMATORS
    }
    assert kept["clean"] > 0.99
    assert kept["posterior"] > 0.99
    assert kept["noised"] < 0.4


def test_posterior_with_all_weight_spread_is_clean():
    now, own = step(), anchors(5)
    clean = ManifoldGuidance(**MANIFOLD | {"estimator": "clean"}).bind(own)(now)
    spread = ManifoldGuidance(**MANIFOLD | {"uniform_share": 1.0}).bind(own)(now)
    assert torch.equal(clean.scaled, spread.scaled)


def test_neighbourhood_shrinks_over_the_warmup():
    method = ManifoldGuidance(**MANIFOLD)
    assert [method.size_at(index, 50) for index in (49, 48, 47, 46, 45, 20)] == [24, 21, 18, 15, 12, 12]
    never_below_k = ManifoldGuidance(**MANIFOLD | {"max_multiplier": 8.0})
    assert never_below_k.size_at(20, 50) == 10
    # The points beyond the shrunken neighbourhood have no say any more.
    own, other = anchors(5), anchors(5)
    other.neighbourhoods[:, 12:] = 77.0
    for index, same in ((20, True), (49, False)):
        pulls = [ManifoldGuidance(**MANIFOLD).bind(given)(step(index)).scaled for given in (own, other)]
        assert torch.allclose(*pulls, atol=1e-3) is same


def test_released_keeps_the_whole_mode_term_and_adds_a_pull_of_fixed_length():
    now, own = step(index=40), anchors(5)
    pull = ManifoldReleasedGuidance(**RELEASED).bind(own)(now)
    torch.testing.assert_close(pull.scaled, 0.1 * (own.prototypes - now.x0))
    torch.testing.assert_close(pull.plain.flatten(1).norm(dim=1), torch.full((5,), 0.1), rtol=1e-4, atol=0)


def test_normal_pull_leads_straight_to_the_plane():
    plane = torch.eye(6)[:2]
    cloud = randn(1, 30, 2) @ plane
    x_t = torch.tensor([[0.1, -0.2, 3.0, 0.0, 0.0, 4.0]])
    pull = normal_pull(x_t, cloud, neighbours=30, tangent_dim=2, scale=0.7, bandwidth=10.0)
    assert torch.allclose(pull[0] / pull.norm(), torch.tensor([0, 0, -0.6, 0, 0, -0.8]), atol=1e-5)
    nearest = (cloud[0] - x_t[0]).norm(dim=1).min()
    torch.testing.assert_close(pull.norm(), 0.7 * torch.tanh(nearest / 10))


def test_released_cloud_lies_around_the_prototype_at_the_noise_level():
    method = ManifoldReleasedGuidance(**RELEASED | {"cloud_size": 2000})
    own, now = anchors(2), step(index=49, count=2)
    cloud = method.bind(own).draw_cloud(now)
    assert cloud.shape == (2, 2000, D)
    centre = 0.4**0.5 * own.prototypes.flatten(1)
    assert (cloud.mean(1) - centre).abs().max() < 0.08
    assert (cloud.var(1) - 0.6).abs().max() < 0.1
    still = method.bind(own).draw_cloud(dataclasses.replace(now, alpha_bar=1.0)) - own.prototypes.flatten(1)[:, None]
    radii = still.norm(dim=2)
    assert float(radii.max()) <= 0.1 + 1e-5  # 0.05 times the multiplier 2 at the first step
    torch.testing.assert_close(radii[:, :1000], torch.full((2, 1000), 0.1), rtol=1e-4, atol=0)
    assert abs(float(radii[:, 1000:].mean()) - 0.05) < 0.003
    assert abs(method.radius_at(20, 50) - 0.05) < 1e-12


# When guidance acts


def test_guidance_acts_above_the_stop_index():
    for method in everything(t_stop=0.5):
        bound = method.bind(anchors(2))
        assert bound(step(index=26, count=2)) is not None
        assert bound(step(index=25, count=2)) is None
    # 29 of 100 is not exactly representable: the product is rounded to an index.
    bound = ModeGuidance(**MODE | {"t_stop": 0.29}).bind(anchors(2))
    assert bound(step(index=29, count=2, num_steps=100)) is None
    assert bound(step(index=30, count=2, num_steps=100)) is not None


def test_no_guidance_never_acts():
    assert NoGuidance.neighbourhood == 0
    assert NoGuidance().bind(anchors(2))(step(index=49, count=2)) is None


# Whole samples on a prior that is known exactly


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_zero_scale_is_the_unguided_run_bit_for_bit(sampler):
    free = draw(4, None, sampler)
    for method in [NoGuidance(), *everything(scale=0.0)[:-1]]:
        assert torch.equal(draw(4, method.bind(anchors(4)), sampler), free)
    released = ManifoldReleasedGuidance(**RELEASED | {"scale": 0.0, "manifold_scale": 0.0})
    assert torch.equal(draw(4, released.bind(anchors(4)), sampler), free)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["ddpm", "ddim"])
def test_guided_samples_come_nearer_to_their_prototypes(sampler):
    own = anchors(24)
    distance = {"none": draw(24, None, sampler)}
    for method in everything():
        name = getattr(method, "estimator", type(method).__name__)
        distance[name] = draw(24, method.bind(own), sampler)
    distance = {name: float((x - own.prototypes).flatten(1).norm(dim=1).mean()) for name, x in distance.items()}
    for name in ("ModeGuidance", "clean", "posterior", "ManifoldReleasedGuidance"):
        assert distance[name] < distance["none"] - 0.01, distance
    assert distance["ModeGuidance"] < distance["posterior"]
    stronger = draw(24, ModeGuidance(**MODE | {"scale": 0.3}).bind(own), sampler) - own.prototypes
    assert float(stronger.flatten(1).norm(dim=1).mean()) < distance["ModeGuidance"]


@pytest.mark.parametrize("size", [1, 7])
def test_guided_rows_do_not_depend_on_their_batch(size):
    sampler, own, count = DDPM(steps=10, cfg_scale=None), anchors(64), 64
    for method in everything():
        whole = draw(count, method.bind(own), sampler)
        for start in (0, 35, 63):
            rows = slice(start, min(start + size, count))
            part = Anchors(own.prototypes[rows], own.neighbourhoods[rows])
            alone = draw(len(keys(count)[rows]), method.bind(part), sampler, keys(count)[rows])
            torch.testing.assert_close(alone, whole[rows], rtol=1e-3, atol=1e-3)
