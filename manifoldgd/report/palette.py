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
    accent: str  # first series, what is better
    second: str  # second series, what is worse


LIGHT = Scheme(paper="#ffffff", ink="#1b1f24", muted="#57606a", faint="#dfe3e8", accent="#0b62b8", second="#c2570c")
DARK = Scheme(paper="#1a1f26", ink="#e8ebef", muted="#a3acb7", faint="#39424d", accent="#62aef5", second="#f5a35c")

# M. Okabe and K. Ito, "Color Universal Design", 2008: lines that stay apart; dark pages lighten them.
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

COLOURS = LIGHT  # of plots; inside a page each of them is the page's variable of the same role
VARIABLES = {
    **{colour: f"line-{position}" for position, colour in enumerate(LINE_COLOURS)},
    COLOURS.paper: "card",
    COLOURS.ink: "ink",
    COLOURS.muted: "muted",
    COLOURS.faint: "line",
    COLOURS.accent: "accent",
    COLOURS.second: "second",
}


def class_colour(label: int) -> str:
    """The colour of a class; beyond ten classes colours repeat, so a figure must also label what it shows."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]
