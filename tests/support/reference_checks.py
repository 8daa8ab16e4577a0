"""Checks of every key of a reference file; shapes, steps, dimensions and eta are read from the file.

Settings that the layout fixes: mode scale 0.1, manifold scale 0.1, bandwidth 0.2, 12 neighbours, guidance while the
respaced index is above half of the steps, exponential radius schedule with 5 warm-up steps and largest multiplier 2.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from manifoldgd.diffusion import DDIM, DDPM, NoiseSchedule
from manifoldgd.diffusion.protocol import Anchors, Step
from manifoldgd.diffusion.samplers import predict
from manifoldgd.geometry.annealing import annealing_multiplier
from manifoldgd.geometry.kernels import kernel_factor
from manifoldgd.guidance import ManifoldReleasedGuidance
from manifoldgd.guidance.mode import mode_vector
from manifoldgd.guidance.tangents import project_on_cloud
from manifoldgd.metrics import functional
from manifoldgd.prototypes.tree import BisectingTree
from manifoldgd.randomness import RowNoise

INPUTS = {"x_t", "centroid", "model_output", "noise", "cloud", "X", "ipc_level", "diff", "synthetic", "real"}
ANNEALING = {"exp": "exponential", "cosine": "cosine", "linear": "linear"}
NEIGHBOURS, WARMUP, MULTIPLIER = 12, 5, 2.0


@dataclass
class Ledger:
    """Reads a file, compares with it, and remembers which keys were read, which compared and how far off."""

    vectors: Mapping[str, np.ndarray]
    read: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)
    errors: dict[str, float] = field(default_factory=dict)

    def input(self, key):
        self.read.add(key)
        return torch.from_numpy(np.array(self.vectors[key]))

    def expect(self, key, ours, tolerance, group, relative_to=None):
        """Largest difference over the largest expected number (or over ``relative_to``) within ``tolerance``."""
        expected = np.asarray(self.vectors[key], dtype=np.float64)
        ours = np.asarray(ours, dtype=np.float64)
        assert ours.shape == expected.shape, key
        scale = np.abs(expected).max() if relative_to is None else relative_to
        error = float((np.abs(ours - expected) / scale).max())
        self._record(key, error, group)
        assert error <= tolerance, f"{key}: off by {error:.2e}, tolerance {tolerance:.0e}"

    def holds(self, key, truth):
        self.compared.add(key)
        assert truth, key

    def _record(self, key, error, group):
        self.compared.add(key)
        self.errors[group] = max(error, self.errors.get(group, 0.0))

    def unchecked(self):
        consumed = {key for key in self.read if key.rsplit("/", 1)[-1] in INPUTS}
        return set(self.vectors) - self.compared - consumed

    def matching(self, pattern):
        return sorted({match for key in self.vectors if (match := re.match(pattern, key)) is not None}, key=str)


def _prefixes(ledger, pattern):
    return sorted({match[0] for match in ledger.matching(pattern)})


def _respaced(ledger, sampler):
    training = NoiseSchedule.training(beta_start=1e-4, beta_end=0.02, kind="linear", num_timesteps=1000)
    steps = {int(match[1]) for match in ledger.matching(rf"{sampler}(\d+)/")}
    assert len(steps) == 1, f"expected one respaced schedule of {sampler}, got {steps}"
    return training.respaced(steps.pop(), sampler)


def check_schedules(ledger):
    for match in ledger.matching(r"(ddpm|ddim)\d+/(\w+)$"):
        ours = getattr(_respaced(ledger, match[1]), match[2]).numpy()
        if match[2] == "timesteps":
            ledger.expect(match[0], ours, 0, "schedule: timesteps (steps)", relative_to=1)
        else:
            expected = ledger.vectors[match[0]]
            ledger.expect(
                match[0], ours, 1e-12, "schedule: coefficients", relative_to=np.abs(expected) + (expected == 0)
            )


def check_radii(ledger):
    for match in ledger.matching(r"radius/(\w+)/base([\d.]+)$"):
        steps = len(ledger.vectors[match[0]])
        ours = [
            float(match[2])
            * annealing_multiplier(ANNEALING[match[1]], i, steps, warmup_steps=WARMUP, max_multiplier=MULTIPLIER)
            for i in range(steps)
        ]
        ledger.expect(match[0], ours, 1e-6, "radius")


def check_kernels(ledger):
    for match in ledger.matching(r"kernel/(rbf|laplace|imq)$"):
        difference = ledger.input("kernel/diff")
        ours = kernel_factor(match[1], difference, 1.0)[:, None]
        expected = ledger.vectors[match[0]]
        ledger.expect(match[0], ours, 1e-4, "kernel", relative_to=np.abs(expected))


def _released(dim, cloud_size):
    return ManifoldReleasedGuidance(
        scale=0.1,
        manifold_scale=0.1,
        radius=0.3,
        distance_bandwidth=0.2,
        cloud_size=cloud_size,
        neighbours=NEIGHBOURS,
        tangent_dim=dim,
        annealing="exponential",
        warmup_steps=WARMUP,
        max_multiplier=MULTIPLIER,
        t_stop=0.5,
    )


def check_steps(ledger):
    for prefix in _prefixes(ledger, r"dd[pi]m/t\d+/d\d+(/eta[\d.]+)?(?=/[a-z]\w*$)"):
        _check_step(ledger, prefix)


def _check_step(ledger, prefix):
    kind, index, dim, eta = re.fullmatch(r"(dd[pi]m)/t(\d+)/d(\d+)(?:/eta([\d.]+))?", prefix).groups()
    index, schedule = int(index), _respaced(ledger, kind)
    ancestral = DDPM(steps=len(schedule), cfg_scale=1.0)
    sampler = ancestral if kind == "ddpm" else DDIM(steps=len(schedule), eta=float(eta), cfg_scale=1.0)
    x_t, output, noise = (ledger.input(f"{prefix}/{name}") for name in ("x_t", "model_output", "noise"))
    prediction = predict(schedule, index, x_t, output, variance="learned_range")
    mean = ancestral.step(schedule, index, x_t, prediction, None, torch.zeros_like(x_t)).x_prev
    ledger.expect(f"{prefix}/pred_xstart", prediction.x0, 1e-4, "step: pred_xstart")
    ledger.expect(f"{prefix}/log_variance", prediction.log_variance, 1e-4, "step: log_variance")
    ledger.expect(f"{prefix}/mean", mean, 1e-4, "step: mean")
    step = Step(index, len(schedule), x_t, prediction.x0, float(schedule.alphas_cumprod[index]), RowNoise(0, []))
    pull = _check_pull(ledger, prefix, step, int(dim))
    draws = noise if sampler.draws_noise(index) else None
    x_prev = sampler.step(schedule, index, x_t, prediction, pull, draws).x_prev
    ledger.expect(f"{prefix}/x_prev", x_prev, 1e-4, f"step: {kind} x_prev")


def _check_pull(ledger, prefix, step, dim):
    centroid = ledger.input(f"{prefix}/centroid")
    guided = f"{prefix}/cloud" in ledger.vectors
    cloud = ledger.input(f"{prefix}/cloud").flatten(1)[None] if guided else None
    bound = _released(dim, cloud.shape[1] if guided else 300).bind(Anchors(centroid, None))
    assert guided == (step.index > step.num_steps // 2), prefix
    if not guided:
        assert bound(step) is None
        return None
    pull = bound.pull(step, cloud)
    mode = mode_vector(step.x0, centroid, "rbf", 1.0)
    projected = project_on_cloud(mode.flatten(1), step.x_t.flatten(1), cloud, NEIGHBOURS, dim).view_as(mode)
    ledger.expect(f"{prefix}/normal_pull", pull.plain, 1e-4, "guidance: normal_pull")
    ledger.expect(f"{prefix}/mode_vector", mode, 1e-4, "guidance: mode_vector")
    key = f"{prefix}/tangent_basis_projector_on_mode"
    ledger.expect(key, projected, 1e-4, "guidance: projected mode vector")
    return pull


def check_clusters(ledger):
    for prefix in _prefixes(ledger, r"cluster/\w+/(sse|var)(?=/)"):
        _check_cluster(ledger, prefix, prefix.rsplit("/", 1)[0], prefix.endswith("sse"))


def _check_cluster(ledger, prefix, problem, by_sse):
    """Labels of a stochastic clustering cannot match: ours must be as good, theirs must mean what we think."""
    points, (count, _) = ledger.input(f"{problem}/X"), ledger.input(f"{problem}/ipc_level").tolist()
    criterion = "sse" if by_sse else "variance"
    tree = BisectingTree.grow(points, count, criterion=criterion, generator=torch.Generator().manual_seed(0))
    leaves, total = tree.leaves(), float(ledger.vectors[f"{prefix}/leaf_sse_total"])
    # Signed: below zero we are better than the recorded clustering.
    ledger.errors[f"cluster: SSE above recorded ({criterion})"] = max(
        tree.total_sse() / total - 1, ledger.errors.get(f"cluster: SSE above recorded ({criterion})", -np.inf)
    )
    ledger.holds(f"{prefix}/leaf_sse_total", tree.total_sse() <= 1.01 * total)
    assert sorted(torch.cat([leaf.members for leaf in leaves]).tolist()) == list(range(len(points)))
    labels = ledger.vectors[f"{prefix}/leaf_labels"]
    sizes, depths = ledger.vectors[f"{prefix}/leaf_sizes"], ledger.vectors[f"{prefix}/leaf_depths"]
    members = [points.double()[torch.from_numpy(labels == label)] for label in np.unique(labels)]
    centers = torch.stack([part.mean(0) for part in members])
    sse = sum(float((part - center).square().sum()) for part, center in zip(members, centers, strict=True))
    ledger.holds(f"{prefix}/leaf_labels", abs(sse / total - 1) < 1e-4 and len(labels) == len(points))
    ledger.holds(f"{prefix}/leaf_sizes", sorted(map(len, members)) == sorted(sizes) and len(sizes) == len(leaves))
    # Kraft's equality: the depths of the leaves of a full binary tree, theirs and ours.
    ledger.holds(f"{prefix}/leaf_depths", sum(2.0 ** -float(depth) for depth in depths) == 1)
    assert sum(2.0**-leaf.depth for leaf in leaves) == 1
    picked = torch.from_numpy(np.array(ledger.vectors[f"{prefix}/picked"])).double()
    distances, which = torch.cdist(picked, centers).min(1)
    ledger.holds(f"{prefix}/picked", len(picked) == count == len(which.unique()) and float(distances.max()) < 1e-3)


METRICS = {
    "l2_mean": functional.mean_l2,
    "cosine_mean": functional.mean_cosine,
    "mmd": functional.rbf_mmd,
    "representativeness": functional.representativeness,
    "diversity": lambda synthetic, real: functional.diversity(synthetic),
}


def check_metrics(ledger):
    synthetic, real = ledger.input("metrics/synthetic"), ledger.input("metrics/real")
    for name, metric in METRICS.items():
        if f"metrics/{name}" in ledger.vectors:
            ledger.expect(f"metrics/{name}", metric(synthetic, real), 1e-4, f"metrics: {name}")


CHECKS: list[Callable[[Ledger], None]] = [
    check_schedules,
    check_radii,
    check_kernels,
    check_steps,
    check_clusters,
    check_metrics,
]
