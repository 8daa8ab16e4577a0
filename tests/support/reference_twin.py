"""An independent twin of the recorded reference file: numpy in float64, loops, full covariances, nothing of ours.

It makes a file of the same layout at any latent shape, with its own times, etas, dimensions and radii.
"""

import math

import numpy as np
from sklearn.cluster import KMeans


def twin_vectors(seed, latent, clouds, steps=20):
    rng = np.random.default_rng(seed)
    vectors = {}
    schedules = {
        "ddpm": _schedule(np.round(np.linspace(0, 999, steps)).astype(int)),
        "ddim": _schedule(np.arange(0, 1000, 1000 // steps)),
    }
    for name, schedule in schedules.items():
        vectors |= {f"{name}{steps}/{key}": value for key, value in schedule.items() if key != "prev"}
    vectors |= _radii(steps) | _kernels(rng, latent)
    for index in (steps - 1, steps // 2 + 1, steps // 2, 1, 0):
        _step(vectors, rng, schedules["ddpm"], f"ddpm/t{index}/d2", latent, clouds)
        for eta, dim in ((0.0, 4), (0.3, 1), (1.0, 2)):
            _step(vectors, rng, schedules["ddim"], f"ddim/t{index}/d{dim}/eta{eta}", latent, clouds, eta)
    _cluster(vectors, rng, "cluster/0")
    _metrics(vectors, rng)
    return vectors


def _schedule(kept):
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[kept]
    prev = np.append(1.0, abar[:-1])
    betas = 1 - abar / prev
    variance = betas * (1 - prev) / (1 - abar)
    return {
        "timesteps": kept.astype(np.int64),
        "betas": betas,
        "alphas_cumprod": abar,
        "posterior_mean_coef1": betas * np.sqrt(prev) / (1 - abar),
        "posterior_mean_coef2": (1 - prev) * np.sqrt(1 - betas) / (1 - abar),
        "posterior_log_variance_clipped": np.log(np.append(variance[1], variance[1:])),
        "prev": prev,
    }


def _radii(steps):
    vectors = {}
    for base in (0.07, 1.5):
        for kind in ("linear", "cosine", "exp"):
            values = np.full(steps, base)
            for done in range(5):
                p = done / 5
                excess = {"linear": 1 - p, "cosine": math.cos(p * math.pi / 2) ** 2}.get(
                    kind, (math.exp(1 - p) - 1) / (math.e - 1)
                )
                values[steps - 1 - done] = base * (1 + excess)
            vectors[f"radius/{kind}/base{base}"] = values
    return vectors


def _kernels(rng, latent):
    difference = rng.normal(size=(3, *latent)).astype(np.float32)
    r = np.sqrt((difference.astype(float) ** 2).sum(axis=(1, 2, 3)))[:, None]
    return {
        "kernel/diff": difference,
        "kernel/rbf": -np.ones((3, 1)),
        "kernel/laplace": -1 / r,
        "kernel/imq": -1 / (r * r + 1),
    }


def _step(vectors, rng, schedule, prefix, latent, clouds, eta=None):
    index, dim = (int(part[1:]) for part in prefix.split("/")[1:3])
    x, centroid, noise = (rng.normal(size=(1, *latent)).astype(np.float32) for _ in range(3))
    output = rng.normal(size=(1, 2 * latent[0], *latent[1:])).astype(np.float32)
    abar, prev = schedule["alphas_cumprod"][index], schedule["prev"][index]
    eps, share = output[:, : latent[0]].astype(float), (output[:, latent[0] :].astype(float) + 1) / 2
    x0 = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    log_variance = (
        share * np.log(schedule["betas"][index]) + (1 - share) * schedule["posterior_log_variance_clipped"][index]
    )
    mean = schedule["posterior_mean_coef1"][index] * x0 + schedule["posterior_mean_coef2"][index] * x
    mode, pull = centroid - x0, 0.0
    values = {"x_t": x, "centroid": centroid, "model_output": output, "noise": noise}
    values |= {"mean": mean, "log_variance": log_variance, "pred_xstart": x0}
    guided = index > len(schedule["betas"]) // 2
    if guided:
        cloud = np.sqrt(abar) * centroid + np.sqrt(1 - abar) * rng.normal(size=(clouds, *latent))
        cloud = cloud.astype(np.float32)
        pull, projected = _geometry(x, cloud, mode, dim)
        values |= {"cloud": cloud, "normal_pull": pull, "mode_vector": mode}
        values["tangent_basis_projector_on_mode"] = projected
    sigma = np.exp(log_variance / 2)
    if eta is None:
        x_prev = mean + guided * (0.1 * sigma * mode + pull) + (index > 0) * sigma * noise
    else:
        x0 = x0 + guided * (0.1 * mode + pull)
        sigma = eta * np.sqrt((1 - prev) / (1 - abar)) * np.sqrt(1 - abar / prev)
        eps = (x - np.sqrt(abar) * x0) / np.sqrt(1 - abar)
        x_prev = np.sqrt(prev) * x0 + np.sqrt(1 - prev - sigma**2) * eps + (index > 0) * sigma * noise
    vectors |= {f"{prefix}/{name}": value for name, value in (values | {"x_prev": x_prev}).items()}


def _geometry(x, cloud, mode, dim):
    """The released pull and the paper's projection from the full D x D covariance."""
    flat, points = x.reshape(-1).astype(float), cloud.reshape(len(cloud), -1).astype(float)
    distances = np.linalg.norm(points - flat, axis=1)
    near = points[np.argsort(distances)[:12]]
    basis = np.linalg.eigh(np.cov(near.T))[1][:, ::-1][:, :dim]
    projector = basis @ basis.T
    normal = (np.eye(len(flat)) - projector) @ (near.mean(0) - flat)
    pull = 0.1 * np.tanh(distances.min() / 0.2) * normal / np.linalg.norm(normal)
    return pull.reshape(x.shape), (projector @ mode.reshape(-1)).reshape(x.shape)


def _cluster(vectors, rng, prefix, count=7):
    points = (rng.normal(size=(6, 9))[rng.integers(6, size=110)] * 4 + rng.normal(size=(110, 9))).astype(np.float32)
    vectors |= {f"{prefix}/X": points, f"{prefix}/ipc_level": np.array([count, 2])}
    for name, score in (("sse", lambda p: ((p - p.mean(0)) ** 2).sum()), ("var", np.var)):
        leaves = [(np.arange(len(points)), 0)]
        while len(leaves) < count:
            worst = max(range(len(leaves)), key=lambda i: score(points[leaves[i][0]]) if len(leaves[i][0]) > 1 else -1)
            members, depth = leaves.pop(worst)
            side = KMeans(2, n_init=10, random_state=0).fit_predict(points[members]) == 1
            leaves += [(members[side], depth + 1), (members[~side], depth + 1)]
        labels = np.empty(len(points), dtype=int)
        for label, (members, _) in enumerate(leaves):
            labels[members] = label
        centers = [points[members].mean(0) for members, _ in leaves]
        vectors |= {
            f"{prefix}/{name}/leaf_sse_total": sum(
                ((points[members] - center) ** 2).sum() for (members, _), center in zip(leaves, centers, strict=True)
            ),
            f"{prefix}/{name}/leaf_sizes": np.array([len(members) for members, _ in leaves]),
            f"{prefix}/{name}/leaf_depths": np.array([depth for _, depth in leaves]),
            f"{prefix}/{name}/leaf_labels": labels,
            f"{prefix}/{name}/picked": np.stack(centers),
        }


def _metrics(vectors, rng, size=11):
    a = rng.normal(0.4, 1.2, size=(23, size)).astype(np.float32)
    b = rng.normal(size=(400, size)).astype(np.float32)
    mean_a, mean_b = a.astype(float).mean(0), b.astype(float).mean(0)
    unit = [x.astype(float) / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    both = np.concatenate([a, b]).astype(float)
    squared = ((both[:, None] - both) ** 2).sum(-1)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(len(both), 1)]))
    within = [
        (block.sum() - len(block)) / (len(block) * (len(block) - 1)) for block in (kernel[:23, :23], kernel[23:, 23:])
    ]
    similar = unit[0] @ unit[0].T - 9 * np.eye(len(a))
    vectors |= {
        "metrics/synthetic": a,
        "metrics/real": b,
        "metrics/l2_mean": np.linalg.norm(mean_a - mean_b),
        "metrics/cosine_mean": 1 - mean_a @ mean_b / np.linalg.norm(mean_a) / np.linalg.norm(mean_b),
        "metrics/mmd": math.sqrt(sum(within) - 2 * kernel[:23, 23:].mean()),
        "metrics/representativeness": (unit[0] @ unit[1].T).max(1).min(),
        "metrics/diversity": 1 - similar.max(),
    }
