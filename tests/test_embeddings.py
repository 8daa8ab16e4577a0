"""Pretrained embeddings, from look-alikes with random weights in exactly the real files' names and shapes."""

import json

import pytest
import torch
import torch.nn.functional as F
from command import quick
from soft_parts import few_digits

import manifoldgd as mgd
from manifoldgd.embeddings import Inception, InceptionNetwork, ResNet18, ResNet18Network, VisionModel, stretched
from manifoldgd.errors import UserError
from manifoldgd.pipeline.evaluation import Sides
from manifoldgd.report.measures import by_embedding
from manifoldgd.report.measures import measure as known_measure


def images(channels=3, side=20, count=3):
    source = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, side, side), generator=source, dtype=torch.uint8)


def parameters(network):
    return sum(each.numel() for each in network.parameters())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """The full size: 122 entries, 11,689,512 parameters."""
    file = tmp_path_factory.mktemp("weights") / "resnet18-f37072fd.pth"
    torch.manual_seed(0)
    torch.save(ResNet18Network().state_dict(), file)
    return file


def test_the_resnet_has_the_entries_of_torchvision_s_file():
    network = ResNet18Network()
    held = network.state_dict()
    assert (len(held), parameters(network)) == (122, 11_689_512)
    assert held["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert held["layer4.1.bn2.running_var"].shape == (512,)
    assert held["fc.weight"].shape == (1000, 512)
    assert not [name for name in held if name.startswith("layer1.0.downsample")]


def test_the_inception_has_the_entries_of_pytorch_fid_s_file():
    network = InceptionNetwork()
    held = network.state_dict()
    assert parameters(network) == 23_850_960
    assert len([name for name in held if not name.endswith("num_batches_tracked")]) == 94 * 5 + 2
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_6b.branch7x7dbl_4.conv.weight": (128, 128, 7, 1),
        "Mixed_7a.branch7x7x3_4.bn.running_mean": (192,),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
    }.items():
        assert held[name].shape == shape


def test_the_resnet_sees_normalised_crops(resnet):
    embedding = ResNet18(weights=str(resnet))
    x = images(side=256)
    seen = embedding.shown(x)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    cropped = x[:, :, 16:240, 16:240].permute(0, 2, 3, 1) / 255
    torch.testing.assert_close(seen.permute(0, 2, 3, 1), (cropped - mean) / std)
    found = embedding.embed(x[:1])
    assert found.shape == (1, 512)
    network = ResNet18Network()
    network.load_state_dict(torch.load(resnet, weights_only=True))
    grown = F.adaptive_avg_pool2d(features(network.eval(), seen[:1]), 1).flatten(1)
    torch.testing.assert_close(found, grown)
    assert embedding.describe() | {"weights": ""} == {
        "name": "ResNet-18 of ImageNet", "size": 512, "layer": "spatial mean of the last stage", "weights": ""
    }  # fmt: skip


def features(network, x):
    """The twin: the layers in a row, written anew."""
    x = F.max_pool2d(network.bn1(network.conv1(x)).relu(), kernel_size=3, stride=2, padding=1)
    for block in (block for stage in (1, 2, 3, 4) for block in getattr(network, f"layer{stage}")):
        short = block.downsample(x) if len(block.downsample) else x
        x = (block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())) + short).relu()
    return x


def test_files_without_counters_are_read_and_others_refused(resnet, tmp_path):
    held = torch.load(resnet, weights_only=True)
    old, small = tmp_path / "old.pth", tmp_path / "small.pth"
    torch.save({name: each for name, each in held.items() if "tracked" not in name}, old)
    assert ResNet18(weights=str(old)).source
    torch.save(held | {"fc.weight": torch.zeros(10, 512)}, small)
    with pytest.raises(UserError, match=r"^weights: .*small.pth: expected weights from .*another shape .*fc.weight"):
        ResNet18(weights=str(small))
    with pytest.raises(
        UserError, match=r"^weights: .*expected weights from .*pt_inception.*got something else .missing"
    ):
        Inception(weights=str(old))
    with pytest.raises(
        UserError, match=r"^embedding.weights: expected a file, got nowhere.pth, which is not there; get"
    ):
        mgd.build("embedding=resnet18", "embedding.weights=nowhere.pth")


def test_a_file_that_would_run_something_is_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"conv1.weight": Runs()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad.pth: expected weights"):
        ResNet18(weights=str(tmp_path / "bad.pth"))


def test_the_inception_sees_what_tensorflow_showed_it(tmp_path):
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    grown = stretched(ramp, 16)[0, 0, 0]
    assert grown[:5].tolist() == [0, 0.5, 1, 1.5, 2]  # from the corner, where half pixels would give 0, 0.25, 0.75
    assert grown[-2:].tolist() == [7, 7]
    assert torch.equal(stretched(ramp, 8), ramp)
    torch.manual_seed(0)
    torch.save(InceptionNetwork().state_dict(), tmp_path / "inception.pth")
    embedding = Inception(weights=str(tmp_path / "inception.pth"))
    shown = embedding.shown(images(side=299))
    assert torch.equal(shown, (images(side=299).float() - 128) / 128)
    assert embedding.embed(images(1)[:1]).shape == (1, 2048)
    with pytest.raises(UserError, match="Inception of the FID sees grey or RGB, got 2 channels"):
        embedding.embed(images(2))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A DINOv2 and a ResNet in small, as ``save_pretrained`` writes them."""
    from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}
    Dinov2Model(Dinov2Config(**small)).save_pretrained(folder / "dino")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(folder / "resnet")
    numbers = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    dino = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    (folder / "dino" / "preprocessor_config.json").write_text(json.dumps(numbers | dino))
    (folder / "resnet" / "preprocessor_config.json").write_text(json.dumps(numbers | {"size": 28, "crop_pct": 0.875}))
    return folder


def test_vision_models_of_transformers(models):
    from transformers import AutoModel

    x = images(side=32)
    cropped = (x[:, :, 2:30, 2:30].permute(0, 2, 3, 1) / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(
        [0.2, 0.3, 0.4]
    )
    for name, size in (("dino", 8), ("resnet", 6)):
        embedding = mgd.build("embedding=vision_model", f"embedding.model={models / name}")
        torch.testing.assert_close(embedding.shown(x).permute(0, 2, 3, 1), cropped)
        twin = AutoModel.from_pretrained(models / name).eval()
        with torch.no_grad():
            found = twin(pixel_values=cropped.permute(0, 3, 1, 2)).pooler_output.flatten(1)
        torch.testing.assert_close(embedding.embed(x), found)
        assert (embedding.size, found.shape) == (size, (3, size))
        assert len(embedding.source) == 32
    with pytest.raises(UserError, match=r"^model: expected a folder or a hub id of a vision model .*got '/nowhere'"):
        VisionModel(model="/nowhere")


def test_sets_are_measured_in_a_pretrained_embedding(models):
    dataset = few_digits()
    embedding = VisionModel(model=str(models / "dino"))
    rows = torch.arange(0, 300, 10)
    made = type("Set", (), {"images": dataset.train.load(rows), "labels": dataset.train.labels[rows]})
    found = Sides.seen_by(embedding, made, dataset).compare()
    assert found["frechet_distance"] >= 0
    assert (found["num_synthetic"], found["num_real"]) == (30, 300)


def test_a_set_is_measured_in_several_embeddings_of_which_those_that_are_missing_are_named(resnet, tmp_path, capsys):
    there = f"embedding.resnet18.weights={resnet}"
    here = ("embedding=imagenet", there, "embedding.inception.weights=/nowhere", "dataset.train_per_class=2")
    words = (*here, "source=random", "measures=true", "ipc=1", "student_seeds=[0]")
    assert quick("run", None, tmp_path / "cache", tmp_path / "out", *words) == 0
    assert "not in inception: /nowhere is not there; get it from https://github.com/mseitzer" in capsys.readouterr().err
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(by_embedding(result["set_metrics"])) == {"resnet18"}
    assert result["set_metrics"]["resnet18/num_real"] == 20
    assert result["embedding"]["resnet18"]["size"] == 512
    page = (tmp_path / "out" / "report.html").read_text()
    assert "embeddings of ResNet-18 of ImageNet" in page
    # More of them there, and none: what is finished stays finished.
    assert quick("run", None, tmp_path / "cache", tmp_path / "out", *words) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    gone = [each.replace(there, "embedding.resnet18.weights=/nowhere") for each in words]
    assert quick("run", None, tmp_path / "cache", tmp_path / "bare", *gone) == 0
    assert json.loads((tmp_path / "bare" / "metrics.json").read_text())["set_metrics"] == {}


def test_measures_of_several_embeddings_are_told_apart_by_name():
    measures = {"dino/kid": 1.0, "dino/recall": 0.5, "inception/kid": None}
    assert by_embedding(measures) == {"dino": {"kid": 1.0, "recall": 0.5}, "inception": {"kid": None}}
    assert by_embedding({"kid": 1.0}) == {"": {"kid": 1.0}}
    assert known_measure("inception/frechet_distance").title == "Fréchet distance (inception)"
    assert known_measure("inception/frechet_distance").better == known_measure("frechet_distance").better == "low"
