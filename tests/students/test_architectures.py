"""Every architecture as a student: trained, repeated bit by bit; models of timm with a module that stands in for it."""

import sys

import fake_timm
import pytest
import torch
from student_parts import MEAN, STD, hundred_digits, source, student

from manifoldgd.errors import UserError
from manifoldgd.students import Recipe, TimmStudent, train_classifier
from manifoldgd.students.architectures import TimmNetwork
from manifoldgd.students.inference import Pixels, outputs
from manifoldgd.students.objectives import TeacherOutputs
from manifoldgd.students.recipe import STANDARD

SMALL = {
    "mlp": ["student.width=8"],
    "lenet": ["student.width=3"],
    "alexnet": ["student.width=8"],
    "vgg11": ["student.width=2"],
    "vit_tiny": ["student.width=8", "student.depth=1"],
    "timm": ["student.name=tiny_conv"],
}


@pytest.fixture
def timm(monkeypatch):
    fake_timm.put_in_place(monkeypatch)


def train(member, *overrides, seed=0):
    images, labels, test_images, test_labels = hundred_digits()
    numbers = ["student.protocol.image_size=32", "student.protocol.epochs=2", "student.protocol.batch_size=25"]
    learner = student(*SMALL[member], *numbers, *overrides, member=member)
    data = (images[::2], labels[::2], test_images[:40], test_labels[:40])
    return learner.train(
        *data, num_classes=10, mean=MEAN, std=STD, seed=seed, ipc=10, progress=False, accelerator="cpu"
    )


@pytest.mark.parametrize("member", sorted(SMALL))
def test_each_trains_to_the_same_bits_whatever_the_global_state(member, timm):
    torch.manual_seed(1)
    first = train(member)
    torch.rand(3)  # dropout draws from it
    before = torch.get_rng_state()
    again = train(member)
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.curve, first.per_class, first.train_accuracy) == (again.curve, again.per_class, again.train_accuracy)
    assert [epoch for epoch, _ in first.curve] == [1, 2]


def test_a_perceptron_learns_digits():
    numbers = [f"student.protocol.{each}" for each in ("epochs=40", "learning_rate=0.2", "image_size=8")]
    found = train("mlp", "student.width=64", "student.protocol.augmentation.operations=[crop]", *numbers)
    assert found.last_top1 > 0.6


def test_where_timm_cannot_be_imported_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # what the import system takes for a module that is not there
    with pytest.raises(
        UserError, match=r"^name: resnet18 is a model of timm, .*pip install 'manifoldgd\[timm\]'"
    ) as one:
        TimmStudent(name="resnet18", protocol=student().protocol)
    assert "\n" not in str(one.value)


def test_a_torchvision_that_does_not_fit_torch_is_answered_too(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported .operator torchvision::nms does not exist.; install it"):
        TimmStudent(name="resnet18", protocol=student().protocol)


def test_models_of_timm_are_known_by_name(timm):
    protocol = student().protocol
    with pytest.raises(
        UserError, match=r"^name: expected a model of timm, got 'tiny', near \['tiny_conv', 'tiny_vit'\]"
    ):
        TimmStudent(name="tiny", protocol=protocol)
    made = TimmStudent(name="tiny_conv", protocol=protocol)
    assert (made.name, made.width, made.depth) == ("tiny_conv (timm)", None, None)
    made.check((1, 8, 8), 10, 10)
    with pytest.raises(UserError, match=r"^protocol.batch_size: .*batch norm.* 257 images in batches of 256"):
        made.check((1, 8, 8), 257, 1)
    with pytest.raises(UserError, match=r"^name: timm does not build tiny_vit for images of 1x7x7 .*is too small"):
        TimmStudent(name="tiny_vit", protocol=protocol).check((1, 7, 7), 10, 10)


def test_models_of_timm_that_are_built_for_a_size_get_it(timm):
    network = TimmNetwork((3, 16, 12), 7, model="tiny_vit", generator=source())
    x = torch.randn(2, 3, 16, 12, generator=source())
    assert network.features(x).shape == (2, 3) == (2, network.embedding_size)
    assert network(x).shape == (2, 7)


def test_features_of_timm_are_what_the_last_layer_sees(timm):
    network = TimmNetwork((3, 16, 12), 7, model="tiny_conv", generator=source()).eval()
    x = torch.randn(2, 3, 16, 12, generator=source())
    assert network.features(x).shape == (2, 5) == (2, network.embedding_size)
    assert torch.equal(network.model.fc(network.features(x)), network(x))


def test_batch_norm_and_dropout_are_at_rest_where_nothing_is_trained(timm):
    network = TimmNetwork((1, 8, 8), 4, model="tiny_conv", generator=source())
    images = torch.randint(256, (9, 1, 8, 8), generator=source(), dtype=torch.uint8)
    told = {"pixels": Pixels((0.5,), (0.5,)), "size": (8, 8), "cover": 1}
    whole = outputs(network, images, **told)
    torch.testing.assert_close(outputs(network, images[:1], **told), whole[:1])  # one image, and no draw
    assert fake_timm.batch_norm_trains(network)  # as it was
    TeacherOutputs(network, 20.0)
    assert not fake_timm.batch_norm_trains(network)


def test_a_model_of_timm_can_teach(timm):
    images, labels, test_images, _ = hundred_digits()
    recipe = Recipe(**{**vars(STANDARD), "architecture": "timm:tiny_conv", "width": None, "images_shown": 200})
    made = train_classifier(images, labels, num_classes=10, mean=MEAN, std=STD, seed=0, flip=False, recipe=recipe,
                            progress=False, accelerator="cpu")  # fmt: skip
    assert made.name == "tiny_conv (timm)"
    assert made.embed(test_images[:3]).shape == (3, 5)
    with pytest.raises(UserError, match=r"architecture: .* without width and depth like one of timm"):
        Recipe(**{**vars(recipe), "width": 4})
