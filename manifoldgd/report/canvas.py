"""Matplotlib without its global state: figures as objects, encoded to text or bytes.

``pyplot`` keeps every figure alive in a module-wide registry and may open a window; neither belongs in a library.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from manifoldgd.report.palette import COLOURS, VARIABLES

# Narrow figures with ordinary type: they stay readable on a phone, where they shrink to its width.
WIDTH_INCHES = 4.2
PIXELS_PER_INCH = 200  # of files
PAGE_PIXELS_PER_INCH = 112  # of pages: 470 pixels wide

_IDENTIFIER = re.compile(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|[A-Z]\w+)_\d+"')
_FONT = re.compile(r"(font(?:-family)?: (?:[\w.]+ )*)'DejaVu Sans'[^;\"]*")


@dataclass(frozen=True, eq=False)
class Plot:
    """A drawn figure."""

    figure: Figure

    def __post_init__(self) -> None:
        self.figure.draw_without_rendering()  # finds the layout, which is then kept instead of found again each time
        self.figure.set_layout_engine("none")

    def png(self) -> bytes:
        """For a file, in the colours of light pages; equal figures give equal bytes."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", metadata={"Software": "manifoldgd"}, facecolor=COLOURS.paper)
        return buffer.getvalue()

    def svg(self, alt: str) -> str:
        """For inside a page, in the page's own colours and font; ``alt`` is read aloud in its place."""
        buffer = io.StringIO()
        # Without a fixed salt identifiers are random; text stays text, so that it is searched, read aloud and small.
        with mpl.rc_context({"svg.hashsalt": "manifoldgd", "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
        text = buffer.getvalue()
        text = _FONT.sub(r"\1var(--font)", _IDENTIFIER.sub("", text[text.index("<svg") :]))
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        for colour, variable in VARIABLES.items():
            text = text.replace(colour, f"var(--{variable})")
        width, height = (round(side * PAGE_PIXELS_PER_INCH) for side in self.figure.get_size_inches())
        view = re.search(r'viewBox="[^"]*"', text)
        head = f'<svg {view.group() if view else ""} width="{width}" height="{height}" role="img" '
        head += (
            f'aria-label="{escape(alt)}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        )
        return head + text[text.index(">") + 1 :].strip()


def new_figure(*, rows: int = 1, height: float, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    """A figure of ``rows x columns`` axes, ``height`` inches high.

    Returns:
        The figure and an object array of axes ``[rows, columns]``.
    """
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=PIXELS_PER_INCH, layout="constrained", facecolor=COLOURS.paper)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for panel in axes.flat:
        _dress(panel)
    return figure, axes


def headline(panel: Axes, text: str) -> None:
    """What a panel shows, above its upper left corner: easier to read than along a turned axis."""
    panel.set_title(literal(text), loc="left", fontsize=10, color=COLOURS.ink)


def literal(text: str) -> str:
    """``text`` so that Matplotlib prints its dollar signs instead of reading mathematics between them."""
    return text.replace("$", r"\$")


def shorten(name: str, limit: int) -> str:
    """At most ``limit`` characters of ``name``, so that a long one leaves room for what is drawn."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _dress(panel: Axes) -> None:
    panel.set_facecolor("none")
    panel.tick_params(which="both", colors=COLOURS.muted, labelcolor=COLOURS.muted, labelsize=9)
    panel.grid(True, color=COLOURS.faint, linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(COLOURS.muted)
    for text in (panel.xaxis.label, panel.yaxis.label):
        text.set_color(COLOURS.ink)
        text.set_fontsize(10)
