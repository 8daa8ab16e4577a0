"""A component names its own argument; where it stands is added by whoever knows."""

import pytest

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import composing
from manifoldgd.errors import UserError, argument, require, under
from manifoldgd.prototypes.spaces import PooledLatents


def test_a_path_grows_from_the_inside_out():
    told = pytest.raises(UserError, match=r"^student\.protocol\.epochs: expected more, got 0; raise it$")
    with told, under("student"), under("protocol"):
        require(False, "expected more, got 0; raise it", key="epochs")


def test_what_is_about_no_key_stays_as_it_is():
    with pytest.raises(UserError, match=r"^the disk is full$"), under("student"):
        raise UserError("the disk is full")


def test_whole_values_pass():
    with under("student"):
        require(True, "unreachable", key="epochs")


@pytest.mark.parametrize(
    ("overrides", "group", "key"),
    [
        (["guidance=manifold", "guidance.tangent_dim=500"], "guidance", "guidance.tangent_dim"),
        (["guidance=manifold_x0", "guidance.method.tangent_dim=500"], "guidance", "guidance.method.tangent_dim"),
        (
            ["guidance=mode_then_manifold", "guidance.then.method.tangent_dim=500"],
            "guidance",
            "guidance.then.method.tangent_dim",
        ),
        (
            ["student/protocol=soft_small", "student.protocol.teacher.architecture=vgg"],
            "student",
            "student.protocol.teacher.architecture",
        ),
        (["machine.precision=8-true"], "machine", "machine.precision"),
    ],
)
def test_a_constructor_s_own_complaint_names_the_whole_key(overrides, group, key):
    with composing() as compose, pytest.raises(UserError) as caught:
        build(compose(overrides).values, group)
    assert str(caught.value).startswith(f"{key}: ")
    assert caught.value.key == key


def test_in_python_the_argument_is_named_as_it_is_there():
    import torch

    with pytest.raises(UserError, match=r"^space\.pool: needs to divide"):
        PooledLatents(pool=3)(torch.zeros(2, 4, 8, 8))


def test_other_arguments_in_a_text_get_the_same_path():
    error = UserError(f"needs another; set {argument('download')}=true or raise it", "folder")
    assert str(error) == "folder: needs another; set download=true or raise it"
    assert str(error.under("dataset")) == "dataset.folder: needs another; set dataset.download=true or raise it"
    deeper = error.under("dataset").under("first")
    assert str(deeper).endswith("set first.dataset.download=true or raise it")
    assert (deeper.key, deeper.path) == ("first.dataset.folder", "first.dataset")
