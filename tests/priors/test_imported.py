"""Weights as the authors of DiT and SiT publish them: a transformer written here, by their names, gives the same."""

import json
import math

import pytest
import torch
from command import manifoldgd
from torch import nn
from torch.nn import functional

from manifoldgd.diffusion import DDPM, Euler
from manifoldgd.errors import UserError
from manifoldgd.priors import load_prior
from manifoldgd.priors.autoencoder import build_autoencoder
from manifoldgd.priors.imported import import_weights_file
from manifoldgd.priors.loading import CARD

WIDTH, HEADS, PATCH, CHANNELS, SIDE, CLASSES = 16, 2, 2, 4, 4, 3


def places(width, side):
    """Sines and cosines of column, then of row."""
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [each.reshape(-1, 1) * rates for each in (columns.double(), rows.double())]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()[None]


class Holder(nn.Module):
    """Modules by name."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def modulated(tokens, shift, scale):
    return functional.layer_norm(tokens, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Published(nn.Module):
    """The published transformer, with learned variance: weights by the names of its state dict."""

    def __init__(self, depth=2):
        super().__init__()
        linear = nn.Linear
        self.x_embedder = Holder(proj=nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH))
        self.t_embedder = Holder(mlp=nn.Sequential(linear(256, WIDTH), nn.SiLU(), linear(WIDTH, WIDTH)))
        self.y_embedder = Holder(embedding_table=nn.Embedding(CLASSES + 1, WIDTH))
        self.pos_embed = nn.Parameter(places(WIDTH, SIDE // PATCH), requires_grad=False)
        self.blocks = nn.ModuleList(
            Holder(
                attn=Holder(qkv=linear(WIDTH, 3 * WIDTH), proj=linear(WIDTH, WIDTH)),
                mlp=Holder(fc1=linear(WIDTH, 4 * WIDTH), fc2=linear(4 * WIDTH, WIDTH)),
                adaLN_modulation=nn.Sequential(nn.SiLU(), linear(WIDTH, 6 * WIDTH)),
            )
            for _ in range(depth)
        )
        self.final_layer = Holder(
            linear=linear(WIDTH, PATCH**2 * 2 * CHANNELS),
            adaLN_modulation=nn.Sequential(nn.SiLU(), linear(WIDTH, 2 * WIDTH)),
        )

    def forward(self, x, t, y):
        rates = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = t[:, None].float() * rates
        told = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], 1)) + self.y_embedder.embedding_table(y)
        tokens = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            shift, scale, gate, shift_after, scale_after, gate_after = block.adaLN_modulation(told).chunk(6, 1)
            seen = block.attn.qkv(modulated(tokens, shift, scale)).unflatten(2, (3, HEADS, WIDTH // HEADS))
            queries, keys, values = seen.permute(2, 0, 3, 1, 4)
            weights = (queries @ keys.transpose(2, 3) / math.sqrt(WIDTH / HEADS)).softmax(3)
            tokens = tokens + gate[:, None] * block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
            inner = functional.gelu(block.mlp.fc1(modulated(tokens, shift_after, scale_after)), approximate="tanh")
            tokens = tokens + gate_after[:, None] * block.mlp.fc2(inner)
        shift, scale = self.final_layer.adaLN_modulation(told).chunk(2, 1)
        patches = self.final_layer.linear(modulated(tokens, shift, scale))
        grid = SIDE // PATCH
        patches = patches.view(len(x), grid, grid, PATCH, PATCH, 2 * CHANNELS)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 2 * CHANNELS, SIDE, SIDE)


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    network = Published().eval()
    with torch.no_grad():
        for each in network.parameters():
            if each is not network.pos_embed:
                each.normal_(std=0.4 / max(1, each[0].numel()) ** 0.5)
    return network


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    vae = build_autoencoder(
        image_channels=3, image_size=8, block_channels=[4, 4], latent_channels=4, layers_per_block=1
    )
    vae.save_pretrained(folder)
    return str(folder)


def load(folder, autoencoder):
    return load_prior(path=str(folder), autoencoder=autoencoder, cfg_scale=None, cfg_channels=None)


@torch.no_grad()
def test_an_imported_dit_is_the_published_one(published, autoencoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(published.state_dict(), "DiT-T-2-8x8.pt")
    assert manifoldgd("prior", "import", "DiT-T-2-8x8.pt", "output=made", "heads=2") == 0
    assert "prior=made" in capsys.readouterr().out
    prior = load("made", autoencoder)
    x, t, y = torch.randn(3, CHANNELS, SIDE, SIDE), torch.tensor([0, 417, 999]), torch.tensor([0, 2, 3])
    torch.testing.assert_close(prior.denoise(x, t, y), published(x, t, y), rtol=1e-4, atol=1e-4)
    assert (prior.null_class, prior.variance, prior.prediction) == (CLASSES, "learned_range", "epsilon")
    assert (prior.cfg_scale, prior.cfg_channels, len(prior.schedule)) == (4.0, 3, 1000)
    prior.schedule.respaced(50, DDPM.spacing)
    card = json.loads((tmp_path / "made" / CARD).read_text())
    assert card["autoencoder"] == "stabilityai/sd-vae-ft-ema"
    assert "CC BY-NC" in (tmp_path / "made" / "README.md").read_text()


@torch.no_grad()
def test_an_imported_sit_moves_the_other_way_through_the_same_times(published, autoencoder, tmp_path):
    """Published: velocity ``x0 - eps`` at a time that is 1 at the image; its second half of channels is dropped."""
    torch.save({"ema": published.state_dict(), "opt": {}}, tmp_path / "SiT.pt")
    import_weights_file(tmp_path / "SiT.pt", tmp_path / "made", path="flow", heads=2, class_names=None)
    prior = load(tmp_path / "made", autoencoder)
    schedule = prior.schedule.respaced(20, Euler.spacing)
    x, y = torch.randn(3, CHANNELS, SIDE, SIDE), torch.tensor([0, 2, 3])
    for index in (0, 9, 19):
        told = torch.full((3,), float(schedule.timesteps[index]))
        velocity = published(x, 1 - torch.full((3,), float(schedule.times[index])), y)[:, :CHANNELS]
        torch.testing.assert_close(prior.denoise(x, told, y)[:, :CHANNELS], -velocity, rtol=1e-4, atol=1e-4)
    assert prior.prediction == "flow"
    assert prior.card["schedule"] == [1000, 1.0, 1.0, 0.0]


def spoiled(weights, what):
    weights = dict(weights)
    if what == "missing":
        del weights["blocks.1.mlp.fc2.bias"]
    elif what == "shape":
        weights["t_embedder.mlp.0.weight"] = torch.zeros(WIDTH, 128)
    elif what == "unknown":
        weights["blocks.0.attn.q_norm.weight"] = torch.zeros(WIDTH)
    elif what == "places":
        weights["pos_embed"] = weights["pos_embed"] + 1
    elif what == "other":
        weights = {"conv.weight": torch.zeros(3)}
    return weights


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"1 weights differ, the first is transformer_blocks\.1\.ff\.net\.2\.bias missing"),
        ("shape", r"weights differ, the first is .*timestep_embedder\.linear_1\.weight \(16, 128\)"),
        ("unknown", r"1 weights differ, the first is .*q_norm"),
        ("places", "embeds places otherwise"),
        ("other", "lacks what a DiT or SiT begins and ends with"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(published, tmp_path, what, message):
    torch.save(spoiled(published.state_dict(), what), tmp_path / "DiT.pt")
    with pytest.raises(UserError, match=message) as caught:
        import_weights_file(tmp_path / "DiT.pt", tmp_path / "made", path="diffusion", heads=2, class_names=None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


class Runs:
    """Would run when it is unpickled."""

    def __reduce__(self):
        return (open, ("ran", "w"))


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, published):
    monkeypatch.chdir(tmp_path)
    torch.save({"x_embedder.proj.weight": Runs()}, "DiT.pt")
    with pytest.raises(UserError, match=r"cannot be read as weights alone"):
        import_weights_file(tmp_path / "DiT.pt", tmp_path / "made", path="diffusion", heads=2, class_names=None)
    assert not (tmp_path / "ran").exists()
    torch.save(published.state_dict(), "DiT.pt")
    with pytest.raises(UserError, match=r"^heads: expected a divisor of 16"):
        import_weights_file(tmp_path / "DiT.pt", tmp_path / "made", path="diffusion", heads=None, class_names=None)
