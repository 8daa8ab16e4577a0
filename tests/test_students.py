"""Students: networks, augmentation, protocols, training, the embedding network."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from sklearn.datasets import load_digits

from manifoldgd.errors import UserError
from manifoldgd.students import DSA, Classifier, HardLabel, LargeImage, Student, train_classifier
from manifoldgd.students.augmentation import COLOUR_AXES, DSA_OPERATIONS, erase_squares, resample, rotations
from manifoldgd.students.cutmix import beta_draw, box, cutmix
from manifoldgd.students.embedding import STANDARD, ShiftFlip
from manifoldgd.students.fused import ConvNormReluPool
from manifoldgd.students.networks import ConvNet, ResNet, ResNetAP, seeded
from manifoldgd.students.training import Pixels, ShuffledIndices, centre_view

CONF = str(Path(__file__).parents[1] / "conf")
MEAN, STD = (0.3053,), (0.3762,)
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


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def student(*overrides, member="convnet3"):
    with initialize_config_dir(CONF, version_base=None):
        config = compose(overrides=[f"+student={member}", *overrides])
    return instantiate(config.student, _convert_="all")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)
    few = torch.cat([torch.nonzero(labels[:1000] == label)[:10, 0] for label in range(10)])
    return images[few], labels[few], images[1000:], labels[1000:]


# Networks


@pytest.mark.parametrize(
    ("shape", "embedding", "parameters"),
    [
        ((1, 28, 28), 2048, 317_706),
        ((3, 32, 32), 2048, 320_010),  # the count DC states for CIFAR-10
        ((1, 8, 8), 128, 298_506),
    ],
)
def test_convnet3_has_the_published_size(shape, embedding, parameters):
    network = ConvNet(shape, 10, width=128, depth=3, generator=source())
    assert network.embedding_size == embedding
    assert count(network) == parameters
    x = torch.randn(2, *shape)
    assert network.features(x).shape == (2, embedding)
    assert torch.allclose(network(x), network.classifier(network.features(x)))


def test_convnet6_leaves_three_by_three_of_224_pixels():
    assert ConvNet((3, 224, 224), 10, width=8, depth=6, generator=source()).embedding_size == 8 * 9


def test_resnet18_has_the_size_of_the_imagenet_one():
    # torchvision's ResNet-18 has 11,689,512 parameters with 1000 classes; instance norm has as many as batch norm.
    assert count(ResNet((3, 224, 224), 1000, width=64, depth=18, generator=source())) == 11_689_512


@pytest.mark.parametrize("kind", [ResNet, ResNetAP])
@pytest.mark.parametrize(("side", "stages"), [(32, 4), (96, 6), (224, 7)])
def test_resnets_end_at_the_same_resolution_with_either_downsampling(kind, side, stages):
    network = kind((3, side, side), 5, width=4, depth=10, generator=source())
    x = torch.randn(2, 3, side, side)
    assert network.stages(network.stem(x)).shape == (2, 32, stages, stages)
    assert network.features(x).shape == (2, 32)
    assert network(x).shape == (2, 5)


def test_resnet_ap_pools_where_resnet_strides():
    strides = {
        kind: [module.stride[0] for module in kind((3, 224, 224), 5, width=4, depth=10, generator=source()).modules()
               if isinstance(module, torch.nn.Conv2d)]
        for kind in (ResNet, ResNetAP)
    }  # fmt: skip
    assert set(strides[ResNetAP]) == {1}
    assert strides[ResNet].count(2) == 7


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ConvNet((3, 28, 28), 10, width=4, depth=6, generator=source()),
            r"student.depth: .* at least 64 pixels, got 28x28; lower student.depth to 4",
        ),
        (
            lambda: ResNet((1, 8, 8), 10, width=4, depth=18, generator=source()),
            r"student: .* at least 16 pixels here, got 8x8",
        ),
        (
            lambda: ResNet((3, 32, 32), 10, width=4, depth=34, generator=source()),
            r"student.depth: expected one of \[10, 18\] for a ResNet, got 34",
        ),
    ],
)
def test_images_too_small_and_unknown_depths_are_user_errors(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("build", [ConvNet, ResNetAP])
def test_weights_depend_on_the_generator_alone_and_leave_global_state(build):
    depth = 3 if build is ConvNet else 10
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build((1, 16, 16), 3, width=4, depth=depth, generator=source(1)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again = build((1, 16, 16), 3, width=4, depth=depth, generator=source(1)).state_dict()
    other = build((1, 16, 16), 3, width=4, depth=depth, generator=source(2)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_seeded_restores_the_state_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(source()):
        {}[torch.rand(3)]
    assert torch.equal(torch.get_rng_state(), before)


# The fast path


def disturbed(shape, width):
    """A float64 ConvNet-3 whose norms' scales and shifts are not one and zero."""
    network = ConvNet(shape, 10, width=width, depth=3, generator=source()).double()
    for index, block in enumerate(network.blocks):
        with torch.no_grad():
            block.norm.weight.normal_(1, 0.5, generator=source(index))
            block.norm.bias.normal_(0, 0.5, generator=source(index + 9))
    return network


@pytest.mark.parametrize(("shape", "width"), [((1, 28, 28), 6), ((3, 32, 32), 5), ((1, 8, 8), 7), ((2, 16, 24), 4)])
@pytest.mark.parametrize("cached", [1, 3000, 1 << 19])
def test_fused_blocks_equal_the_layers_one_after_the_other(shape, width, cached, monkeypatch):
    monkeypatch.setattr("manifoldgd.students.fused.CACHED_ELEMENTS", cached)
    network = disturbed(shape, width)
    x, labels = torch.randn(7, *shape, generator=source(), dtype=torch.float64), torch.arange(7)
    found = []
    for fused in (False, True):
        network.fused = fused
        assert network._can_fuse(x) is fused
        network.zero_grad()
        logits = network(x)
        F.cross_entropy(logits, labels).backward()
        found.append((logits.detach(), {name: value.grad for name, value in network.named_parameters()}))
    (plain, plain_grads), (fast, fast_grads) = found
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    for name, grad in plain_grads.items():
        if name.endswith("conv.bias"):  # cancelled by the norm: zero up to rounding, and left out
            assert grad.abs().max() < 1e-12
            assert fast_grads[name] is None
        else:
            torch.testing.assert_close(fast_grads[name], grad, rtol=1e-9, atol=1e-12, msg=name)


def test_fused_block_passes_a_numerical_gradient_check():
    shapes = ((2, 4, 4, 2), (3, 2, 3, 3), (3,), (3,))
    inputs = [
        torch.randn(*shape, generator=source(index), dtype=torch.float64, requires_grad=True)
        for index, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(lambda *tensors: ConvNormReluPool.apply(*tensors, True), inputs)


def test_half_precision_rounds_the_convolutions_and_nothing_else():
    network = disturbed((1, 28, 28), 16).float()
    x, labels = torch.randn(9, 1, 28, 28, generator=source()), torch.arange(9)
    found = []
    for half in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = network.features(x)
        assert features.dtype is torch.float32
        F.cross_entropy(network.classifier(features), labels).backward()
        assert all(value.grad is None or value.grad.dtype is torch.float32 for value in network.parameters())
        found.append(
            (
                features.detach(),
                torch.cat([value.grad.flatten() for value in network.parameters() if value.grad is not None]),
            )
        )
    (full, full_grad), (half, half_grad) = found
    assert 0 < (half - full).norm() / full.norm() < 1e-2  # bfloat16 has 8 bits: 2^-9 a rounding
    assert 0 < (half_grad - full_grad).norm() / full_grad.norm() < 5e-2


def test_fused_forward_is_the_same_with_and_without_gradients():
    network = disturbed((1, 8, 8), 4)
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        quiet = network(x)
    assert torch.equal(quiet, network(x).detach())


def test_what_the_fast_path_cannot_do_takes_the_layers():
    network = ConvNet((3, 20, 20), 4, width=4, depth=3, generator=source())
    assert not network._can_fuse(torch.randn(2, 3, 20, 20))  # 20 -> 10 -> 5
    assert network(torch.randn(2, 3, 20, 20)).shape == (2, 4)
    network = ConvNet((3, 16, 16), 4, width=4, depth=3, generator=source())
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0


# Augmentation


def dsa(*operations, mode="single", **numbers):
    return DSA(operations=operations, mode=mode, **(STILL | numbers))


def pictures(count=6, channels=3, side=12, seed=0):
    return torch.randn(count, channels, side, side, generator=source(seed))


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
        ({"mode": "both"}, r"mode: expected single or all, got 'both'"),
        ({"scale_ratio": 0.8}, r"scale_ratio: expected at least 1, got 0.8"),
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


# Protocols


def test_hard_large_has_the_published_epochs():
    protocol = student(member="resnetap10").protocol
    table = {1: 3000, 2: 2000, 10: 2000, 11: 1500, 50: 1500, 51: 1000, 100: 1000, 200: 1000, 201: 500}
    assert {ipc: protocol.epochs_for(ipc, 10) for ipc in table} == table
    assert [protocol.epochs_for(ipc, 100) for ipc in (1, 10, 50, 100)] == [2000, 1300, 1000, 600]
    assert protocol.image_size == 224
    with pytest.raises(UserError, match=r"entry for ipc=501 or more, got entries up to 500"):
        protocol.epochs_for(501, 10)
    with pytest.raises(UserError, match=r"at most 100 classes, got 101; choose student/protocol=hard_many_classes"):
        protocol.epochs_for(10, 101)
    many = student("student/protocol=hard_many_classes", member="resnetap10").protocol
    assert (many.learning_rate, many.weight_decay, many.batch_size) == (0.1, 1e-4, 128)
    assert many.epochs_for(10, 1000) == 1300


def test_learning_rate_drops_at_the_milestones():
    small, large = student().protocol, student(member="resnet18").protocol
    assert [small.rate_factor(epoch, 300) for epoch in (0, 149, 150, 299)] == [1, 1, 0.1, 0.1]
    assert [large.rate_factor(epoch, 1500) for epoch in (999, 1000, 1249, 1250)] == [
        1,
        0.2,
        0.2,
        pytest.approx(0.04),
    ]
    assert small.epochs_for(10, 10) == 300


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 300])
@pytest.mark.parametrize("evaluations", [1, 3, 10])
def test_the_last_epoch_is_always_evaluated(epochs, evaluations):
    protocol = dataclasses.replace(student().protocol, evaluations=evaluations)
    evaluated = protocol.evaluated_epochs(epochs)
    assert epochs in evaluated
    assert len(evaluated) == min(evaluations, epochs)
    assert min(evaluated) >= 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "student.protocol.epochs: expected at least 1, got 0"),
        ("epochs", {1: 10, 5: 0}, "student.protocol.epochs: expected at least 1, got 0"),
        ("batch_size", 0, "student.protocol.batch_size: expected at least 1, got 0"),
        ("evaluations", 0, "student.protocol.evaluations: expected at least 1, got 0"),
        ("learning_rate", -1.0, "student.protocol.learning_rate: expected above 0, got -1.0"),
        ("cutmix_alpha", -0.5, "student.protocol.cutmix_alpha: expected 0 or more, got -0.5"),
        ("milestones", [200], r"student.protocol.milestones: expected shares in \(0, 1\), got 200"),
    ],
)
def test_protocols_check_their_numbers(key, value, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(student().protocol, **{key: value})


# Training


def train(digits, *overrides, seed=0, **arguments):
    learner = student("student.width=16", *overrides)
    return learner.train(*digits, num_classes=10, mean=MEAN, std=STD, seed=seed, ipc=10, progress=False,
                         accelerator="cpu", **arguments)  # fmt: skip


NO_FLIP = "student.protocol.augmentation.operations=[crop,scale,rotate]"


def test_a_hundred_digits_teach_far_more_than_chance(digits):
    numbers = ["epochs=30", "batch_size=20", "learning_rate=0.05"]
    result = train(digits, NO_FLIP, *(f"student.protocol.{each}" for each in numbers))
    assert result.last_top1 > 0.55
    assert result.train_accuracy > 0.8
    assert result.last_epoch == 30
    assert [epoch for epoch, _ in result.curve] == [10, 20, 30]
    assert result.curve[-1] == (30, result.last_top1)
    assert result.best_top1 == max(top1 for _, top1 in result.curve)
    sizes = torch.bincount(digits[3], minlength=10).double()
    mean = float((torch.tensor(result.per_class, dtype=torch.float64) * sizes).sum() / sizes.sum())
    assert mean == pytest.approx(result.last_top1)


def test_equal_seeds_give_equal_bits_and_others_do_not(digits):
    runs = []
    for seed in (1, 1, 2):
        losses = []
        torch.rand(seed)  # global state must not matter
        result = train(digits, "student.protocol.epochs=4", "student.protocol.batch_size=32", seed=seed,
                       on_epoch=lambda epoch, epochs, metrics, losses=losses: losses.append((epoch, epochs, metrics["loss"])))  # noqa: E501  # fmt: skip
        runs.append((losses, result.curve, result.per_class, result.train_accuracy))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert [(epoch, epochs) for epoch, epochs, _ in runs[0][0]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_training_leaves_inputs_and_global_random_state_alone(digits):
    copies = [each.clone() for each in digits]
    before = torch.get_rng_state()
    train(digits, "student.protocol.epochs=2")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(copies, digits, strict=True))


def test_large_image_protocol_trains_with_cutmix_and_another_size(digits):
    images = torch.stack([F.pad(each, (2, 2, 2, 2)) for each in digits[0]])
    learner = student("student/protocol=hard_large", "student.width=8", "student.protocol.epochs=2",
                      "student.protocol.image_size=16")  # fmt: skip
    assert learner.input_shape((1, 12, 12)) == (1, 16, 16)
    test_images = torch.stack([F.pad(each, (2, 2, 2, 2)) for each in digits[2][:50]])
    result = learner.train(images, digits[1], test_images, digits[3][:50], num_classes=10, mean=MEAN, std=STD, seed=0,
                           ipc=10, progress=False, accelerator="cpu")  # fmt: skip
    assert [epoch for epoch, _ in result.curve] == [1, 2]


def test_a_logger_gets_loss_and_accuracy(digits, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    train(digits, "student.protocol.epochs=2", "student.protocol.evaluations=1", seed=7, logger=logger)
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "student/7/loss" in text
    assert "student/7/top1" in text


def test_training_checks_tensors_and_numbers_first(digits):
    images, labels, test_images, test_labels = digits
    learner = student()
    with pytest.raises(ValueError, match=r"images: expected uint8"):
        learner.train(
            images.float(), labels, test_images, test_labels, num_classes=10, mean=MEAN, std=STD, seed=0, ipc=1
        )
    with pytest.raises(ValueError, match=r"labels: expected int64 \(100,\)"):
        learner.train(images, labels[:5], test_images, test_labels, num_classes=10, mean=MEAN, std=STD, seed=0, ipc=1)
    with pytest.raises(UserError, match="at least 64 pixels, got 8x8"):
        student("student/protocol=hard_small", member="convnet6").check((1, 8, 8), 10, 10)
    numbers = {"architecture": "convnet", "width": 4, "depth": 3, "protocol": learner.protocol}
    with pytest.raises(UserError, match=r"student.architecture: expected one of .* got 'vgg'"):
        Student(**numbers | {"architecture": "vgg"})
    with pytest.raises(UserError, match=r"student.width: expected at least 1, got 0"):
        Student(**numbers | {"width": 0})


def test_names():
    assert student().name == "ConvNet-3"
    assert student("student.width=64").name == "ConvNet-3 (width 64)"
    assert student(member="resnetap10").name == "ResNetAP-10"
    assert isinstance(student().protocol, HardLabel)
    assert isinstance(student(), Student)


def test_every_index_comes_once_in_each_pass():
    loader = ShuffledIndices(10, 4, source())
    passes = [list(loader) for _ in range(2)]
    for batches in passes:
        assert [len(each) for each in batches] == [4, 4, 2]
        assert torch.cat(batches).sort().values.tolist() == list(range(10))
    assert not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))
    assert len(loader) == 3


def test_pixels_are_normalised_channel_by_channel():
    pixels = Pixels((0.5, 0.25), (0.5, 0.1))
    images = torch.tensor([[[[255]], [[0]]]], dtype=torch.uint8)
    assert pixels.normalised(pixels.unit(images)).flatten().tolist() == pytest.approx([1.0, -2.5])


def test_test_images_are_cropped_at_the_centre_of_eight_sevenths():
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(centre_view(x, (28, 28)), x[:, :, 2:30, 2:30])
    assert centre_view(x, (32, 32)) is x
    assert centre_view(torch.rand(1, 1, 20, 40), (14, 14)).shape == (1, 1, 14, 14)


# The embedding network


QUICK = dataclasses.replace(STANDARD, width=16, images_shown=15_000, learning_rate=0.1)


@pytest.fixture(scope="module")
def classifier():
    data = load_digits()
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8)[:1000, None]
    labels = torch.tensor(data.target, dtype=torch.int64)[:1000]
    return train_classifier(images, labels, num_classes=10, mean=MEAN, std=STD, seed=0, flip=False, recipe=QUICK,
                            progress=False, accelerator="cpu")  # fmt: skip


def test_the_embedding_network_recognises_digits(classifier, digits):
    assert classifier.accuracy(digits[2], digits[3]) > 0.9
    embedding = classifier.embed(digits[2][:5])
    assert embedding.shape == (5, classifier.embedding_size)
    torch.testing.assert_close(classifier.network.classifier(embedding), classifier.logits(digits[2][:5]))


def test_a_saved_classifier_comes_back_as_it_was(classifier, digits, tmp_path):
    path = tmp_path / "cache" / "judge.safetensors"
    classifier.save(path)
    loaded = Classifier.load(path)
    assert torch.equal(loaded.logits(digits[2][:20]), classifier.logits(digits[2][:20]))
    assert loaded.description == classifier.description
    assert [each.name for each in path.parent.iterdir()] == ["judge.safetensors"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_classifier_is_a_user_error(classifier, tmp_path, damage):
    path = tmp_path / "judge.safetensors"
    classifier.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"judge.safetensors: expected a saved classifier"):
        Classifier.load(path)


def test_shift_flip_moves_whole_pixels():
    x = pictures(5, 1, 6)
    padded = F.pad(x, (1, 1, 1, 1))
    windows = {(i, j): padded[:, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3)}
    seen = set()
    for seed in range(60):
        out = ShiftFlip(shift=1 / 6, flip=False)(x, source(seed), (6, 6))
        matches = [place for place, window in windows.items() if torch.equal(window, out)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(windows)
    out = ShiftFlip(shift=0, flip=True)(x, source(1), (6, 6))
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(out, x, strict=True))
    assert not torch.equal(out, x)
