"""Matplotlib without its global state: figures as objects on the Agg canvas, encoded to bytes.

``pyplot`` keeps every figure alive in a module-wide registry and may open a window; neither belongs in a library.
"""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from manifoldgd.report.palette import Scheme

Format = Literal["png", "svg"]

# Narrow figures with ordinary type: shown at half their pixels they stay readable on a 390-pixel-wide phone.
WIDTH_INCHES = 5.2
PIXELS_PER_INCH = 200


def new_figure(scheme: Scheme, *, rows: int = 1, height: float, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    """A figure of ``rows x columns`` axes in the colours of ``scheme``, ``height`` inches high.

    Returns:
        The figure and an object array of axes ``[rows, columns]``.
    """
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=PIXELS_PER_INCH, layout="constrained", facecolor=scheme.paper)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for panel in axes.flat:
        _dress(panel, scheme)
    return figure, axes


def encode(figure: Figure, file_format: Format = "png") -> bytes:
    """The figure as PNG or SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # Without a fixed salt SVG identifiers are random; the date and the version would change bytes for no reason.
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "manifoldgd"}):
        figure.savefig(buffer, format=file_format, metadata=metadata, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def headline(panel: Axes, text: str, scheme: Scheme) -> None:
    """What a panel shows, above its upper left corner: easier to read than along a turned axis."""
    panel.set_title(literal(text), loc="left", fontsize=10, color=scheme.ink)


def literal(text: str) -> str:
    """``text`` so that Matplotlib prints its dollar signs instead of reading mathematics between them."""
    return text.replace("$", r"\$")


def shorten(name: str, limit: int) -> str:
    """At most ``limit`` characters of ``name``, so that a long one leaves room for what is drawn."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _dress(panel: Axes, scheme: Scheme) -> None:
    panel.set_facecolor(scheme.paper)
    panel.tick_params(which="both", colors=scheme.muted, labelcolor=scheme.muted, labelsize=9)
    panel.grid(True, color=scheme.faint, linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(scheme.muted)
    for text in (panel.xaxis.label, panel.yaxis.label):
        text.set_color(scheme.ink)
        text.set_fontsize(10)
