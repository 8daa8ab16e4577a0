"""Colours that hold for readers with any colour vision, on light and on dark pages."""

from __future__ import annotations

from dataclasses import dataclass

# M. A. Petroff, "Accessible Color Sequences for Data Visualization", arXiv 2107.02270: ten colours whose order was
# chosen so that every prefix stays apart under the three common colour-vision deficiencies.
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


@dataclass(frozen=True)
class Scheme:
    """The colours of one page background, as ``#rrggbb``."""

    paper: str  # background, equal to the page's card colour in templates/style.css
    ink: str  # text and main lines
    muted: str  # axes, secondary text
    faint: str  # grid lines, shaded spans
    accent: str  # first series
    second: str  # second series


LIGHT = Scheme(paper="#ffffff", ink="#1b1f24", muted="#57606a", faint="#dfe3e8", accent="#0b62b8", second="#c2570c")
DARK = Scheme(paper="#1a1f26", ink="#e8ebef", muted="#a3acb7", faint="#39424d", accent="#62aef5", second="#f5a35c")


def class_colour(label: int) -> str:
    """The colour of a class; beyond ten classes colours repeat, so a figure must also label what it shows."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]
