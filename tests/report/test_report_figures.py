"""Every pixel of a grid is where it belongs; plots survive what is missing."""

import io
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

from manifoldgd.estimates import Estimate
from manifoldgd.report import figures, grids, latent_map, run
from manifoldgd.report.palette import CLASS_COLOURS, COLOURS, LINE_COLOURS

pytestmark = pytest.mark.usefixtures("plots")
STEPS = [
    {"index": i, "ratio_mean": 0.5 * 0.9 ** (9 - i), "ratio_std": 0.02, "kept_mean": 0.5, "kept_std": 0.1}
    for i in range(9, 3, -1)
]


def _solid(values, channels=1, height=2, width=3):
    pixels = torch.tensor(values, dtype=torch.uint8).view(len(values), -1, 1, 1)
    return pixels.expand(-1, channels, height, width).contiguous()


class Layout:
    """Where the cells of a grid lie, in pixels."""

    def __init__(self, names, width, height, gap=grids.GAP):
        self.left, self.width, self.height, self.gap = grids.label_width(names), width, height, gap

    def corner(self, row, column):
        return self.left + column * (self.width + grids.GAP), grids.GAP + row * (self.height + self.gap)

    def cell(self, image, row, column):
        x, y = self.corner(row, column)
        return np.asarray(image.crop((x, y, x + self.width, y + self.height)))


@pytest.mark.parametrize("scale", [1, 4])
def test_grid_puts_class_in_row_and_rank_in_column(scale):
    names = ("a", "bb", "empty")
    images = _solid([10, 20, 30, 40, 50])
    labels, ranks = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([2, 1, 0, 1, 0])
    image = grids.image_grid(images, labels, names, scale=scale, ranks=ranks)
    layout = Layout(names, 3 * scale, 2 * scale)
    assert image.size == layout.corner(3, 3)
    for row, values in enumerate([[50, 20], [30, 40, 10]]):
        for column, value in enumerate(values):
            assert (layout.cell(image, row, column) == value).all()
    assert (layout.cell(image, 0, 2) == 255).all()
    by_appearance = grids.image_grid(images, labels, names, scale=scale)
    assert (layout.cell(by_appearance, 1, 0) == 10).all()
    gap_x = layout.corner(0, 1)[0] - 1
    assert image.getpixel((gap_x, layout.corner(0, 0)[1])) == (255, 255, 255)


def test_enlargement_repeats_pixels_exactly():
    image = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    grid = grids.image_grid(image, torch.tensor([0]), ["x"], scale=5)
    expected = image[0].permute(1, 2, 0).numpy().repeat(5, axis=0).repeat(5, axis=1)
    assert (Layout(["x"], 40, 40).cell(grid, 0, 0) == expected).all()


def test_reduction_averages():
    image = torch.tensor([[0, 100], [100, 200]], dtype=torch.uint8).view(1, 1, 2, 2)
    grid = grids.image_grid(image, torch.tensor([0]), ["x"], scale=0.5)
    assert (Layout(["x"], 1, 1).cell(grid, 0, 0) == 100).all()


@pytest.mark.parametrize(("pixels", "scale"), [(8, 8), (28, 2), (32, 2), (64, 1), (50, 1), (256, 0.25)])
def test_scale_brings_cells_near_64_pixels(pixels, scale):
    assert grids.scale_for(pixels) == scale


def test_names_are_drawn_and_long_ones_end_in_an_ellipsis():
    names = ["Größe", "Shetland sheepdog, Shetland sheep dog, Shetland"]
    grid = grids.image_grid(_solid([0, 0], height=32, width=32), torch.tensor([0, 1]), names, scale=1)
    column = np.asarray(grid)[:, : grids.label_width(names)]
    assert (column[:36] < 128).any()
    assert (column[40:] < 128).any()
    fitted = [grids._fitted(name) for name in names]
    assert fitted[0] == names[0]
    assert fitted[1].startswith("Shetland")
    assert fitted[1].endswith("…")
    assert grids.label_width(names) <= grids.LABEL_PIXELS + 2 * grids.GAP + 8


def test_pairs_stand_prototype_above_outcome():
    before, after = _solid([10, 20, 30]), _solid([110, 120, 130])
    image = grids.image_grid(after, torch.tensor([0, 1, 0]), ("a", "b"), scale=3, above=before)
    layout = Layout(("a", "b"), 9, 12 + grids.SEAM, gap=grids.PAIR_GAP)
    for row, column, value in ((0, 0, 10), (0, 1, 30), (1, 0, 20)):
        cell = layout.cell(image, row, column)
        assert (cell[:6] == value).all()
        assert (cell[6 : 6 + grids.SEAM] == 255).all()
        assert (cell[-6:] == value + 100).all()
    assert image.height == layout.corner(1, 0)[1] + layout.height + grids.GAP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": _solid([1, 2]).float()}, "uint8"),
        ({"images": _solid([1, 2], channels=2)}, "C = 1 or 3"),
        ({"labels": torch.tensor([0])}, "2 images"),
        ({"labels": torch.tensor([0, 5])}, r"\[0, 1\)"),
        ({"ranks": torch.tensor([0])}, "2 images"),
        ({"scale": 1.5}, "whole number"),
        ({"scale": 0}, "whole number"),
    ],
)
def test_grid_refuses_what_does_not_fit(change, message):
    arguments = {"images": _solid([1, 2]), "labels": torch.tensor([0, 0]), "class_names": ["a"], "scale": 1} | change
    with pytest.raises(ValueError, match=message):
        grids.image_grid(**arguments)


def test_pairs_refuse_different_shapes():
    with pytest.raises(ValueError, match="above: expected"):
        grids.image_grid(_solid([1, 2]), torch.tensor([0, 0]), ["a"], scale=1, above=_solid([1]))


def test_save_png_round_trips(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    grids.save_png(image, tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(image)).all()
    assert os.listdir(tmp_path) == ["a.png"]


def _decoded(plot):
    return np.asarray(Image.open(io.BytesIO(plot.png())).convert("RGB")).astype(int)


def _has_colour(plot, colour, pixels=20):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(_decoded(plot) - wanted).max(axis=2) < 6).sum() >= pixels


def test_guidance_plot_has_a_second_panel_only_where_something_was_projected():
    both = figures.guidance_plot(STEPS)
    one = figures.guidance_plot([{**step, "kept_mean": None, "kept_std": None} for step in STEPS])
    assert _has_colour(both, COLOURS.accent)
    assert _has_colour(both, COLOURS.second)
    assert not _has_colour(one, COLOURS.second)
    assert _decoded(one).shape[0] < _decoded(both).shape[0]
    assert figures.guidance_plot(STEPS).png() == figures.guidance_plot(STEPS[::-1]).png() == both.png()


def test_guidance_plot_survives_missing_numbers_and_zero_guidance():
    figures.guidance_plot([{"index": 3, "ratio_mean": 0.0, "ratio_std": None, "kept_mean": math.nan}])
    figures.guidance_plot([*STEPS, {"index": 10, "ratio_mean": None, "ratio_std": None}])
    with pytest.raises(ValueError, match="guided step"):
        figures.guidance_plot([{"index": 3, "ratio_mean": None, "ratio_std": None}])
    with pytest.raises(ValueError, match="guided step"):
        figures.guidance_plot([])


def test_svg_is_text_and_reproducible():
    svg = figures.guidance_plot(STEPS).svg("alt")
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert svg == figures.guidance_plot(STEPS).svg("alt")


def test_bars_take_missing_values():
    plot = figures.bars(["a", "b_$"], [[90, 80], []], title="%")
    assert _has_colour(plot, COLOURS.accent)
    with pytest.raises(ValueError, match="got 1 and 2"):
        figures.bars(["a"], [[1], [2]], title="%")


@pytest.mark.parametrize(("count", "size"), [(12, 40), (200, 30), (40, 600)])
def test_principal_plane_equals_the_svd(count, size):
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(count, size)) * np.linspace(3, 0.1, size) + 5).astype(np.float32)
    plane = latent_map.principal_plane(points)
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    found = plane.transform(points)
    signs = np.sign((found * expected).sum(axis=0))
    assert np.allclose(found, expected * signs, atol=2e-3)
    assert np.allclose(plane.explained_variance_ratio_, values[:2] ** 2 / (values**2).sum(), rtol=1e-4)
    assert np.array_equal(latent_map.principal_plane(points).transform(points), found)


def test_latent_maps_show_every_class_and_accept_absent_parts():
    labels = torch.arange(3).repeat_interleave(10)
    real = torch.randn(30, 2, 2, 2, generator=torch.Generator().manual_seed(0)) + 6 * labels.view(-1, 1, 1, 1)
    cloud, some = latent_map.Cloud.of(real, labels), latent_map.Cloud.of(real[::5], labels[::5])
    names = ["a", "b$", "c" * 40]
    drawn = latent_map.latent_map(cloud, some, some, names)
    assert drawn.png() == latent_map.latent_map(cloud, some, some, names).png()
    assert all(_has_colour(drawn, colour) for colour in CLASS_COLOURS[:3])
    assert latent_map.latent_map(cloud, None, some, names).png() != drawn.png()
    nobody = latent_map.Cloud.of(real[:0], labels[:0])
    latent_map.latent_map(cloud, None, nobody, names)
    latent_map.latent_map_by_class(cloud, some, some, [*names, "empty"])
    with pytest.raises(ValueError, match="two points"):
        latent_map.principal_plane(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="one length"):
        latent_map.Cloud.of(real, labels[:2])


def test_guidance_plot_draws_the_records():
    ratio, kept = figures.guidance_plot(STEPS).figure.axes
    for panel, key in ((ratio, "ratio"), (kept, "kept")):
        x, y = panel.lines[0].get_data()
        assert list(x) == [9, 8, 7, 6, 5, 4]
        assert y == pytest.approx([step[f"{key}_mean"] for step in STEPS])
        band = panel.collections[0].get_paths()[0].vertices
        top = STEPS[0][f"{key}_mean"] + STEPS[0][f"{key}_std"]
        assert band[band[:, 0] == 9][:, 1].max() == pytest.approx(top)
    assert ratio.get_xlim() == (9.5, -0.5)
    (idle,) = ratio.patches
    assert (idle.get_x(), idle.get_x() + idle.get_width()) == (-0.5, 3.5)


def test_ratios_over_decades_get_a_log_axis_and_gaps_break_the_line():
    wide = [{"index": i, "ratio_mean": 10.0**-i, "ratio_std": 10.0**-i} for i in (0, 1, 4, 5)]
    (panel,) = figures.guidance_plot(wide).figure.axes
    assert panel.get_yscale() == "log"
    assert [list(line.get_xdata()) for line in panel.lines] == [[5, 4], [1, 0]]
    assert all((band.get_paths()[0].vertices[:, 1] > 0).all() for band in panel.collections)
    assert figures.guidance_plot(STEPS).figure.axes[0].get_yscale() == "linear"


def test_curves_and_bars_draw_percentages_and_values():
    series = {"seed 0": [(10, Estimate(25, None, 1)), (20, Estimate(50, None, 1))]}
    references = {"chance": Estimate(10, None, 1)}
    for named, names in ((True, ["seed 0", "chance"]), (False, ["chance"])):
        curves = figures.line_plot(series, title="%", x_title="epoch", references=references, named=named)
        panel = curves.figure.axes[0]
        (curve, *_), level = panel.containers[0], panel.lines[-1]
        assert list(curve.get_xdata()) == [10, 20]  # in their place, where no whiskers would hide each other
        assert (list(curve.get_ydata()), list(level.get_ydata())) == ([25, 50], [10, 10])
        assert [text.get_text() for text in panel.texts] == names
    panel = figures.bars(["a", "b"], [[100, 80], [80]], title="%").figure.axes[0]
    assert [bar.get_width() for bar in panel.patches] == [90, 80]
    assert [list(line.get_xdata()) for line in panel.lines] == [[100, 80]]  # each value, where there are several
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in panel.texts] == ["90.0", "80.0"]
    assert panel.get_ylim() == (1.5, -0.5)
    assert panel.get_xlim() == (0, 100)


def test_dots_take_the_colour_of_their_verdict():
    estimates = [Estimate(70, 1, 3), Estimate(60, 1, 3), None, Estimate(66, 2, 3)]
    verdicts = ["better", "worse", None, None]
    plot = figures.dots(list("abcd"), estimates, title="%", verdicts=verdicts, reference=Estimate(65, 1, 3))
    panel = plot.figure.axes[0]
    found = {line.get_xdata()[0]: line.get_color() for line in panel.lines if line.get_marker() == "o"}
    assert found == {70: COLOURS.accent, 60: COLOURS.second, 66: COLOURS.muted}
    assert [text.get_text() for text in panel.texts] == ["", "", "–", ""]


def test_lines_carry_their_names_and_losers_stand_back():
    def points(*means):
        return [(x, Estimate(mean, 1, 3)) for x, mean in zip((1, 10), means, strict=True)]

    series = {"best": points(60, 80), "gone": [(1, None)], "close": points(60.1, 79.9), "last": points(50, 55)}
    plot = figures.line_plot(
        series, title="%", x_title="x", log_x=True, faded={"last"}, references={"base": Estimate(70, 2, 3)}
    )
    panel = plot.figure.axes[0]
    labels = {text.get_text(): text for text in panel.texts}
    assert set(labels) == {"best", "close", "last", "base"}
    assert labels["last"].get_color() == COLOURS.muted
    heights = sorted(labels[name].xyann[1] for name in ("best", "close", "last"))
    assert min(np.diff(heights)) > 0.04
    assert 0 <= heights[0] <= heights[-1] <= 1
    colours = [line[0].get_color() for line in panel.containers]
    assert colours == [LINE_COLOURS[0], LINE_COLOURS[2], COLOURS.muted]  # a name keeps its colour where one is left out
    with pytest.raises(ValueError, match="at least one point"):
        figures.line_plot({"a": [(1.0, None)]}, title="t", x_title="x")


def test_heat_maps_colour_by_the_distance_from_a_column():
    panel = figures.heat_map([[1, 3], [2, None]], [1, 4], rows=["a", "b"], columns=["x", "y"], title="t").figure.axes[0]
    tones = {patch.get_xy(): (patch.get_facecolor()[:3], patch.get_alpha()) for patch in panel.patches}
    blue, orange = (tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in (COLOURS.accent, COLOURS.second))
    assert tones == {(0.5, -0.5): (pytest.approx(blue), 0.6), (-0.5, 0.5): (pytest.approx(orange), 0.6)}
    assert [text.get_text() for text in panel.texts] == ["1", "3", "2"]
    with pytest.raises(ValueError, match="expected 1 x 2 numbers"):
        figures.heat_map([[1.0]], [0.0], rows=["a"], columns=["b", "c"], title="t")


def test_maps_draw_each_kind_in_the_plane_of_the_real_latents():
    generator = torch.Generator().manual_seed(0)
    real, labels = torch.randn(30, 5, generator=generator), torch.arange(30) % 2
    other = torch.randn(6, 5, generator=generator) + 3
    latents = {
        "real": real, "real_labels": labels, "prototypes": other[:2], "prototype_labels": labels[:2],
        "synthetic": other[2:], "synthetic_labels": labels[2:6],
    }  # fmt: skip
    whole, by_class = (figure.drawn.figure for figure in run._maps(latents, ["a", "b"]))
    plane = latent_map.principal_plane(real.numpy())
    kinds = [dots.get_offsets() for dots in whole.axes[0].collections]
    for dots, points in zip([kinds[0], kinds[1], kinds[-1]], [real, other[:2], other[2:]], strict=True):
        assert np.allclose(dots, plane.transform(points.numpy()), atol=1e-4)
    own = latent_map.principal_plane(real[1::2].numpy())
    assert np.allclose(by_class.axes[1].collections[-1].get_offsets(), own.transform(other[3::2].numpy()), atol=1e-4)
