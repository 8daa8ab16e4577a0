"""Plots that are made and not drawn: drawing takes longer than all else of a run on digits."""

import functools
import io
from html import escape

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from manifoldgd.report.canvas import Plot


@functools.cache
def pixel() -> bytes:
    """A PNG file with the mark by which a table knows what it may replace."""
    ours = PngInfo()
    ours.add_text("Software", "manifoldgd")
    Image.new("L", (1, 1)).save(file := io.BytesIO(), "PNG", pnginfo=ours)
    return file.getvalue()


def undraw(patch: pytest.MonkeyPatch) -> None:
    """From here on a plot is a pixel in a file, and an empty drawing with its words on a page."""
    patch.setattr(Plot, "__post_init__", lambda plot: None)
    patch.setattr(Plot, "png", lambda plot: pixel())
    patch.setattr(Plot, "svg", lambda plot, alt: f'<svg role="img" aria-label="{escape(alt)}"></svg>')
