"""Augmentation: every operation by its definition, and CutMix."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from student_parts import pictures, source, student

from manifoldgd.errors import UserError
from manifoldgd.students import DSA, LargeImage
from manifoldgd.students.augmentation import COLOUR_AXES, DSA_OPERATIONS, erase_squares, resample, rotations
from manifoldgd.students.cutmix import beta_draw, box, cutmix

STILL = {
    "flip_probability": 0.0,
    "scale_ratio": 1.0,
    "rotate_degrees": 0.0,
    "crop_ratio": 0.0,
    "cutout_ratio": 0.0,
    "brightness": 0.0,
    "saturation": 2.0,
    "contrast": 0.5,
}


def dsa(*operations, mode="single", **numbers):
    return DSA(operations=operations, mode=mode, **(STILL | numbers))


@pytest.mark.parametrize("operations", [("crop",), ("flip",), ("scale",), ("rotate",), ("cutout",), DSA_OPERATIONS[1:]])
def test_dsa_with_nothing_to_do_is_the_identity(operations):
    x = pictures()
    torch.testing.assert_close(dsa(*operations, mode="all")(x, source(), (12, 12)), x, rtol=0, atol=1e-5)


def test_dsa_flip_is_a_mirror_image_and_undoes_itself():
    x, flip = pictures(), dsa("flip", flip_probability=1.0)
    once = flip(x, source(), (12, 12))
    torch.testing.assert_close(once, x.flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(flip(once, source(), (12, 12)), x, rtol=0, atol=1e-5)


def test_dsa_flip_happens_to_about_half_of_the_images():
    x = pictures(400, 1, 4)
    flipped = (dsa("flip", flip_probability=0.5)(x, source(), (4, 4)) - x).abs().amax((1, 2, 3)) > 1e-3
    assert 160 < int(flipped.sum()) < 240


def test_dsa_crop_shifts_by_whole_pixels_into_zeros():
    x = pictures(64, 1, 8)
    moved = dsa("crop", crop_ratio=0.25)(x, source(), (8, 8))
    padded = F.pad(x, (2, 2, 2, 2))
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        places = {
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.allclose(before[:, row : row + 8, column : column + 8], after, atol=1e-5)
        }
        assert len(places) == 1
        seen |= places
    assert {row for row, _ in seen} == {column for _, column in seen} == set(range(5))


def test_dsa_cutout_erases_at_most_a_square_of_half_the_side():
    x = torch.ones(300, 2, 8, 8)
    holes = dsa("cutout", cutout_ratio=0.5)(x, source(), (8, 8)) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(holes[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4}  # centres at 0 ... 8, clipped at the border


def test_dsa_cutout_moves_with_the_crop():
    x = torch.ones(200, 1, 8, 8)
    both = dsa("crop", "cutout", mode="all", crop_ratio=0.25, cutout_ratio=0.5)
    shift = both._shift(x, source())
    erased = both._cut_out(x, shift, source(3))
    plain = both._cut_out(x, None, source(3))
    for index in range(len(x)):
        rows, columns = int(shift[0][index]), int(shift[1][index])
        for y in range(8):
            for z in range(8):
                if 0 <= y + rows < 8 and 0 <= z + columns < 8:
                    assert erased[index, 0, y + rows, z + columns] == plain[index, 0, y, z]


def test_erase_squares_by_hand():
    erased = erase_squares(torch.ones(2, 1, 4, 5), torch.tensor([1, -1]), torch.tensor([3, 0]), (2, 3))
    assert erased[0, 0].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert erased[1, 0].tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_quarter_turn_is_numpys():
    x = pictures(2, 1, 6)
    turned = resample(x, rotations(torch.tensor([math.pi / 2, -math.pi / 2])))
    np.testing.assert_allclose(turned[0, 0], np.rot90(x[0, 0].numpy()), atol=1e-5)
    np.testing.assert_allclose(turned[1, 0], np.rot90(x[1, 0].numpy(), -1), atol=1e-5)


def test_dsa_scale_and_rotate_stay_in_their_ranges():
    x = pictures(500)
    scale = dsa("scale", scale_ratio=1.2)._matrices(x, None, ("scale",), source())
    for axis in (0, 1):
        factors = scale[:, axis, axis]
        assert 1 / 1.2 <= float(factors.min()) < 0.86
        assert 1.17 < float(factors.max()) <= 1.2
    assert not torch.equal(scale[:, 0, 0], scale[:, 1, 1])
    turn = dsa("rotate", rotate_degrees=15.0)._matrices(x, None, ("rotate",), source())
    degrees = torch.atan2(turn[:, 1, 0], turn[:, 0, 0]).rad2deg()
    assert -15.001 <= float(degrees.min()) < -14
    assert 14 < float(degrees.max()) <= 15.001


def test_dsa_all_composes_the_operations_in_their_order():
    x = pictures(3)
    generator = source(4)
    everything = dsa("crop", "flip", "scale", "rotate", mode="all", crop_ratio=0.2, flip_probability=1.0,
                     scale_ratio=1.5, rotate_degrees=40.0)  # fmt: skip
    shift = everything._shift(x, source(1))
    found = everything._matrices(x, shift, everything.operations, generator)
    generator = source(4)
    torch.rand(3, 1, 1, 1, generator=generator)  # flip
    scales = [1 / 1.5 + (1.5 - 1 / 1.5) * torch.rand(3, 1, 1, 1, generator=generator).flatten() for _ in range(2)]
    angles = math.radians(40) * (2 * torch.rand(3, 1, 1, 1, generator=generator).flatten() - 1)
    for index in range(3):
        crop = np.array([[1, 0, 2 * float(shift[1][index]) / 12], [0, 1, 2 * float(shift[0][index]) / 12], [0, 0, 1]])
        cosine, sine = np.cos(float(angles[index])), np.sin(float(angles[index]))
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        scale = np.diag([float(scales[0][index]), float(scales[1][index]), 1])
        np.testing.assert_allclose(found[index], crop @ np.diag([-1, 1, 1]) @ scale @ turn, atol=1e-6)


def test_dsa_colour_matches_its_definition():
    x = pictures(4)
    found = dsa("color", brightness=1.0)(x, source(2), (12, 12)).numpy()
    generator = source(2)
    torch.randint(1, (), generator=generator)  # the operation
    draws = [torch.rand(4, 1, 1, 1, generator=generator).numpy() for _ in range(3)]
    y = x.numpy() + draws[0] - 0.5
    grey = y.mean(1, keepdims=True)
    y = (y - grey) * (2 * draws[1]) + grey
    mean = y.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, (y - mean) * (draws[2] + 0.5) + mean, atol=1e-5)


def test_dsa_single_draws_one_operation_a_batch_and_reaches_all():
    x = pictures(8, 1)
    strategy = student().protocol.augmentation
    assert strategy.mode == "single"
    changed = []
    for seed in range(40):
        out = strategy(x, source(seed), (12, 12))
        changed.append((out == 0).any().item())
    assert 0 < sum(changed) < 40
    assert torch.equal(strategy(x, source(3), (12, 12)), strategy(x, source(3), (12, 12)))


def test_augmentation_leaves_its_input_alone_and_resizes():
    for augmentation in (student().protocol.augmentation, student(member="resnet18").protocol.augmentation):
        x = torch.rand(4, 3, 16, 16, generator=source())
        copy = x.clone()
        assert augmentation(x, source(), (8, 12)).shape == (4, 3, 8, 12)
        assert torch.equal(x, copy)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"operations": ["color", "colour"]}, r"operations: expected any of .*, got \['colour'\]"),
        ({"mode": "both"}, r"mode: expected .*, got 'both'"),
        ({"scale_ratio": 0.8}, r"scale_ratio: expected .*, got 0.8"),
    ],
)
def test_dsa_refuses_what_it_does_not_know(numbers, message):
    with pytest.raises(UserError, match=message):
        DSA(**({"operations": ["crop"], "mode": "single"} | STILL | numbers))


def test_large_image_without_colour_changes_keeps_a_flat_image_flat():
    crop = LargeImage(smallest_area=0.5, flip_probability=0.5, jitter=0.0, lighting=0.0)
    flat = torch.full((200, 3, 10, 10), 0.25)
    torch.testing.assert_close(crop(flat, source(), (14, 14)), torch.full((200, 3, 14, 14), 0.25))


def test_large_image_jitter_on_grey_pixels_is_brightness_alone():
    # Contrast and saturation pull towards the image's own grey, which a flat grey image already has.
    x = torch.full((500, 3, 4, 4), 0.5)
    out = LargeImage(smallest_area=1.0, flip_probability=0.0, jitter=0.4, lighting=0.0)(x, source(), (4, 4))
    levels = out.amax((1, 2, 3))
    torch.testing.assert_close(levels, out.amin((1, 2, 3)), atol=1e-5, rtol=0)
    assert 0.3 <= float(levels.min()) < 0.31
    assert 0.69 < float(levels.max()) <= 0.7


def test_large_image_jitter_is_not_clamped():
    x = torch.full((500, 3, 4, 4), 0.9)
    out = LargeImage(smallest_area=1.0, flip_probability=0.0, jitter=0.4, lighting=0.0)(x, source(), (4, 4))
    assert 1.24 < float(out.max()) <= 1.26


def test_large_image_crops_stay_inside_and_cover_at_least_their_share():
    ramp = torch.linspace(0, 1, 64).expand(300, 1, 64, 64)
    crops = LargeImage(smallest_area=0.5, flip_probability=0.5, jitter=0.0, lighting=0.0)(ramp, source(), (16, 16))
    assert crops[:, 0, 8].min() > 0  # no zeros from outside
    spread = crops[:, 0, 8, -1] - crops[:, 0, 8, 0]
    assert 0.3 < float((spread < 0).float().mean()) < 0.7  # mirrored
    assert float(spread.abs().min()) > math.sqrt(0.5 * 3 / 4) * 15 / 16 - 0.05
    assert float(spread.abs().max()) > 0.9


def test_large_image_lighting_shifts_whole_channels_along_the_colour_axes():
    x = torch.full((2000, 3, 2, 2), 0.5)
    out = LargeImage(smallest_area=1.0, flip_probability=0.0, jitter=0.0, lighting=0.1)(x, source(), (2, 2))
    shifts = out - x
    torch.testing.assert_close(shifts, shifts[:, :, :1, :1].expand_as(shifts))
    along = shifts[:, :, 0, 0] @ torch.tensor(COLOUR_AXES)
    np.testing.assert_allclose(along.std(0), 0.1 * np.array([0.2175, 0.0188, 0.0045]), rtol=0.08)


def test_cutmix_label_weight_is_the_kept_area():
    for seed in range(30):
        x = torch.arange(8.0)[:, None, None, None].expand(8, 2, 9, 11)
        mixed, partners, kept = cutmix(x, 1.0, source(seed))
        own = (mixed == x).double().mean((1, 2, 3))
        elsewhere = partners != torch.arange(8)
        torch.testing.assert_close(own[elsewhere], torch.full_like(own[elsewhere], kept))
        for index in range(8):
            assert set(mixed[index].unique().tolist()) <= {float(index), float(partners[index])}


def test_cutmix_boxes_have_the_area_asked_for_away_from_the_border():
    areas = [(b - t) * (r - left) for t, b, left, r in (box(40, 40, 0.04, source(seed)) for seed in range(300))]
    assert max(areas) == 64  # (0.2 * 40) squared
    assert min(areas) >= 16  # at a corner


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.5, 1 / 8)])
def test_beta_draws_have_the_moments_of_the_beta_distribution(alpha, variance):
    generator = source()
    draws = np.array([beta_draw(alpha, generator) for _ in range(3000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(draws.var() - variance) < 0.006
