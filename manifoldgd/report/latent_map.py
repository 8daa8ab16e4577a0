"""Where synthetic images lie among the real ones: exact two-dimensional principal component maps of latents.

Shape letters: ``N`` real latents, ``P`` prototypes, ``n`` synthetic latents, ``D`` the flattened latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from torch import Tensor

from manifoldgd.report.canvas import Plot, headline, literal, new_figure, shorten
from manifoldgd.report.palette import COLOURS, class_colour

NAME = 16  # characters of a class in a map
NAMED_CLASSES = 20  # beyond this many, names in the map would cover it


@dataclass(frozen=True)
class Cloud:
    """Latents of one kind with their classes."""

    points: np.ndarray  # [M, D] float32
    labels: np.ndarray  # [M] int64

    @classmethod
    def of(cls, latents: Tensor, labels: Tensor) -> Cloud:
        """From ``[M, D]`` or ``[M, C, H, W]`` latents and ``[M]`` labels."""
        if len(latents) != len(labels):
            raise ValueError(f"latents, labels: expected one length, got {len(latents)} and {len(labels)}")
        return cls(latents.detach().flatten(1).float().cpu().numpy(), labels.cpu().numpy())

    def only(self, label: int) -> Cloud:
        """The points of one class."""
        chosen = self.labels == label
        return Cloud(self.points[chosen], self.labels[chosen])

    def projected(self, axes: PCA) -> Cloud:
        """The same points in the plane, ``[M, 2]``."""
        return Cloud(axes.transform(self.points) if len(self.points) else np.zeros((0, 2)), self.labels)


def principal_plane(points: np.ndarray) -> PCA:
    """The two leading principal axes of ``points [N, D]``, exact and deterministic, signs included.

    The covariance is formed only where ``D`` is small; otherwise Lanczos iterations from a fixed start find the two
    axes without it.

    Raises:
        ValueError: fewer than two points or dimensions.
    """
    count, size = points.shape
    if min(count, size) < 2:
        raise ValueError(f"points: expected at least two points in two dimensions, got {count} in {size}")
    solver = "full" if min(count, size) < 16 else "covariance_eigh" if size <= 512 else "arpack"
    return PCA(n_components=2, svd_solver=solver, random_state=0).fit(points)


def latent_map(
    real: Cloud,
    prototypes: Cloud | None,
    synthetic: Cloud,
    class_names: Sequence[str],
) -> Plot:
    """All classes in the plane of the real latents' two leading principal components.

    Real latents are light dots, prototypes crosses, synthetic latents outlined dots, coloured by class; up to twenty
    class names stand at the median of their real latents. The plane is fitted on the real latents alone.

    Args:
        real: ``N >= 2`` latents.
        prototypes: ``P`` latents, or ``None``.
        synthetic: ``n`` latents.
        class_names: index to name.
    """
    axes = principal_plane(real.points)
    figure, panels = new_figure(height=4.9)
    panel = panels[0, 0]
    flat = real.projected(axes)
    _draw(panel, flat, _project(prototypes, axes), synthetic.projected(axes), size=26)
    if len(class_names) <= NAMED_CLASSES:
        _name_classes(panel, flat, class_names)
    shares = axes.explained_variance_ratio_
    panel.set_xlabel(f"first principal component ({shares[0]:.0%} of variance)")
    panel.set_ylabel(f"second ({shares[1]:.0%})")
    _legend(panel, prototypes is not None)
    return Plot(figure)


def latent_map_by_class(
    real: Cloud,
    prototypes: Cloud | None,
    synthetic: Cloud,
    class_names: Sequence[str],
    *,
    limit: int = 12,
) -> Plot:
    """One small map a class, each in the principal plane of that class's own real latents; arguments as above.

    Args:
        real: latents; a class with fewer than two keeps an empty panel.
        prototypes: latents, or ``None``.
        synthetic: latents.
        class_names: index to name.
        limit: classes shown, the first ones.
    """
    shown = min(limit, len(class_names))
    columns = min(4, shown)
    rows = math.ceil(shown / columns)
    figure, panels = new_figure(rows=rows, columns=columns, height=0.35 + 1.4 * rows)
    for label, panel in enumerate(panels.flat):
        panel.set_xticks([])
        panel.set_yticks([])
        if label >= shown:
            panel.set_visible(False)
            continue
        headline(panel, shorten(class_names[label], NAME))
        members = real.only(label)
        if len(members.points) < 2:
            continue
        axes = principal_plane(members.points)
        own = None if prototypes is None else prototypes.only(label)
        flat = members.projected(axes)
        _draw(panel, flat, _project(own, axes), synthetic.only(label).projected(axes), size=20)
    return Plot(figure)


def _project(cloud: Cloud | None, axes: PCA) -> Cloud | None:
    return None if cloud is None else cloud.projected(axes)


def _draw(panel: Axes, real: Cloud, prototypes: Cloud | None, synthetic: Cloud, size: float) -> None:
    """Real latents at the back, then prototypes, synthetic latents in front."""
    alpha = float(np.clip(300 / max(1, len(real.points)), 0.08, 0.45))
    panel.scatter(*real.points.T, s=size / 4, c=_colours(real), alpha=alpha, linewidths=0, rasterized=True)
    if prototypes is not None:
        panel.scatter(*prototypes.points.T, s=1.3 * size, c=COLOURS.paper, marker="x", linewidths=2.6)
        panel.scatter(*prototypes.points.T, s=size, c=_colours(prototypes), marker="x", linewidths=1.4)
    panel.scatter(*synthetic.points.T, s=size, c=_colours(synthetic), edgecolors=COLOURS.ink, linewidths=0.7)


def _colours(cloud: Cloud) -> list[str]:
    return [class_colour(label) for label in cloud.labels.tolist()]


def _name_classes(panel: Axes, real: Cloud, class_names: Sequence[str]) -> None:
    box = {"boxstyle": "round,pad=0.2", "facecolor": COLOURS.paper, "edgecolor": COLOURS.muted, "alpha": 0.85}
    for label, name in enumerate(class_names):
        members = real.only(label).points
        if len(members):
            x, y = np.median(members, axis=0)
            text = literal(shorten(name, NAME))
            panel.text(x, y, text, ha="center", va="center", fontsize=9, color=COLOURS.ink, bbox=box, zorder=5)


def _legend(panel: Axes, with_prototypes: bool) -> None:
    def sample(marker: str, label: str, **style: object) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=COLOURS.muted, label=label, **style)

    handles = [sample(".", "real", markersize=4), sample("o", "synthetic", markersize=6, markeredgecolor=COLOURS.ink)]
    if with_prototypes:
        handles.insert(1, sample("x", "prototype", markersize=6))
    panel.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=COLOURS.ink,
    )
