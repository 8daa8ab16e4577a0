"""The students' networks: published sizes, seeded weights, fused blocks, models of timm."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from student_parts import count, source

from manifoldgd.errors import UserError
from manifoldgd.students.architectures import build_network, network_name
from manifoldgd.students.convnets import ConvNet
from manifoldgd.students.fused import ConvNormReluPool
from manifoldgd.students.network import seeded
from manifoldgd.students.resnets import ResNet, ResNetAP


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


# Width and depth of the literature.
USUAL = {"mlp": (128, 3), "lenet": (6, 5), "alexnet": (128, 6), "vgg": (64, 11), "vit": (192, 12)}


def dense(*sizes):
    """Weights and biases of linear layers one after the other."""
    return sum((before + 1) * after for before, after in itertools.pairwise(sizes))


def convolved(side, *sizes):
    """The same of convolutions with square kernels."""
    return sum((before * side**2 + 1) * after for before, after in itertools.pairwise(sizes))


def of_vgg(channels, classes):
    sizes = (channels, 64, 128, 256, 256, 512, 512, 512, 512)
    return convolved(3, *sizes) + 2 * sum(sizes[1:]) + dense(512, classes)


def of_vit(channels, patch, tokens, classes):
    block = 2 * 2 * 192 + dense(192, 3 * 192) + dense(192, 192) + dense(192, 4 * 192, 192)
    return convolved(patch, channels, 192) + 192 * (1 + tokens) + 12 * block + 2 * 192 + dense(192, classes)


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "embedding", "parameters", "counted"),
    [
        # 118,282, 62,006, 61,706, 9,231,114 (with batch norm) and 5,717,416 are the counts that others state.
        ("mlp", (1, 28, 28), 10, 128, 118_282, dense(784, 128, 128, 10)),
        ("mlp", (3, 32, 32), 10, 128, 411_146, dense(3072, 128, 128, 10)),
        ("lenet", (3, 32, 32), 10, 84, 62_006, convolved(5, 3, 6, 16) + dense(400, 120, 84, 10)),
        ("lenet", (1, 28, 28), 10, 84, 61_706, convolved(5, 1, 6, 16) + dense(400, 120, 84, 10)),
        ("alexnet", (3, 32, 32), 10, 192 * 16, 1_872_202,
         convolved(5, 3, 128, 192) + convolved(3, 192, 256, 192, 192) + dense(3072, 10)),
        ("alexnet", (1, 28, 28), 10, 192 * 16, 1_865_802,
         convolved(5, 1, 128, 192) + convolved(3, 192, 256, 192, 192) + dense(3072, 10)),
        ("vgg", (3, 32, 32), 10, 512, 9_231_114, of_vgg(3, 10)),
        ("vgg", (1, 28, 28), 10, 512, 9_229_962, of_vgg(1, 10)),
        ("vit", (3, 32, 32), 10, 192, 5_362_762, of_vit(3, 4, 65, 10)),
        ("vit", (3, 224, 224), 1000, 192, 5_717_416, of_vit(3, 16, 197, 1000)),  # DeiT-Ti
    ],
)  # fmt: skip
def test_networks_of_the_cross_architecture_tables_have_the_published_sizes(
    architecture, shape, classes, embedding, parameters, counted
):
    network = build_network(architecture, *USUAL[architecture], shape, classes, source())
    assert count(network) == parameters == counted
    assert network.embedding_size == embedding
    x = torch.randn(2, *shape, generator=source())
    features = network.features(x)
    assert features.shape == (2, embedding)
    assert torch.equal(network(x), network.classifier(features))
    assert network(x).shape == (2, classes)


@pytest.mark.parametrize("architecture", sorted(USUAL))
@pytest.mark.parametrize("shape", [(2, 32, 48), (3, 64, 64), (3, 128, 128), (1, 224, 224)])
def test_they_see_images_of_other_sizes_and_learn_in_all_their_parts(architecture, shape):
    depth = 2 if architecture == "vit" else USUAL[architecture][1]
    network = build_network(architecture, 4, depth, shape, 5, source())
    x = torch.randn(2, *shape, generator=source())
    F.cross_entropy(network(x), torch.tensor([1, 3])).backward()
    assert network.features(x).shape == (2, network.embedding_size)
    assert all(each.grad is not None for each in network.parameters())
    assert all(float(each.grad.abs().max()) > 0 for each in network.parameters() if each.ndim > 1)


@pytest.mark.parametrize(
    ("architecture", "width", "depth", "shape", "message"),
    [
        ("mlp", 4, 1, (1, 8, 8), r"^depth: .* expected 2 or more, got 1"),
        ("lenet", 6, 4, (1, 28, 28), r"^depth: expected 5 for a LeNet, got 4"),
        ("lenet", 6, 5, (1, 8, 8), r"student: LeNet needs sides of at least 16 pixels here, got 8x8"),
        ("alexnet", 8, 6, (1, 7, 9), r"student: AlexNet needs sides of at least 8 pixels here, got 7x9"),
        ("alexnet", 8, 6, (1, 96, 30), r"student: AlexNet needs sides of at least 32 pixels here, got 96x30"),
        ("vgg", 8, 13, (3, 32, 32), r"^depth: expected 11 for a VGG, got 13"),
        ("vgg", 8, 11, (3, 28, 30), r"student: VGG-11 needs sides of at least 32 pixels here, got 28x30"),
        ("vit", 192, 1, (3, 30, 32), r"student: ViT-Tiny needs sides that are multiples of 4 pixels here, got 30x32"),
        ("vit", 129, 1, (3, 32, 32), r"^width: expected a multiple of its 2 heads, got 129; take 64 a head"),
    ],
)
def test_what_they_cannot_see_and_are_not_is_a_user_error(architecture, width, depth, shape, message):
    with pytest.raises(UserError, match=message):
        build_network(architecture, width, depth, shape, 10, source())


def test_what_is_not_the_literature_s_is_part_of_a_network_s_name():
    named = {name: network_name(name, *size) for name, size in USUAL.items()}
    assert named == {"mlp": "MLP", "lenet": "LeNet", "alexnet": "AlexNet", "vgg": "VGG-11", "vit": "ViT-Tiny"}
    assert network_name("vit", 64, 3) == "ViT-Tiny (width 64, depth 3)"
    assert network_name("vgg", 32, 11) == "VGG-11 (width 32)"
    assert network_name("mlp", 128, 2) == "MLP (depth 2)"


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
            r"^depth: .* at least 64 pixels, got 28x28; lower it to 4",
        ),
        (
            lambda: ResNet((1, 8, 8), 10, width=4, depth=18, generator=source()),
            r"student: .* at least 16 pixels here, got 8x8",
        ),
        (
            lambda: ResNet((3, 32, 32), 10, width=4, depth=34, generator=source()),
            r"^depth: expected one of \[10, 18\] for a ResNet, got 34",
        ),
    ],
)
def test_images_too_small_and_unknown_depths_are_user_errors(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    ("architecture", "depth"), [("convnet", 3), ("resnet_ap", 10), ("mlp", 3), ("lenet", 5), ("alexnet", 6), ("vit", 2)]
)
def test_weights_depend_on_the_generator_alone_and_leave_global_state(architecture, depth):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        build_network(architecture, 4, depth, (1, 16, 16), 3, source(seed)).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
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


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_the_images_are_those_of_the_layers(frozen):
    """What guidances that judge sets follow, through networks that do not train."""
    network = disturbed((2, 16, 24), 4).requires_grad_(not frozen)
    found = []
    for fused in (False, True):
        network.fused = fused
        x = torch.randn(5, 2, 16, 24, generator=source(), dtype=torch.float64).requires_grad_(True)
        network(x).pow(3).sum().backward()
        found.append(x.grad)
        assert all(each.grad is None for each in network.parameters()) is frozen
    assert float(found[0].abs().max()) > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


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
