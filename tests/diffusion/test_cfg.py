"""Classifier-free guidance: which channels it moves, and how often it calls the network."""

import pytest
import torch

from manifoldgd.diffusion import ClassifierFreeGuidance


class Counting:
    """Predicts label in all channels plus the channel's number, and counts rows."""

    def __init__(self, out):
        self.out, self.rows = out, []

    def __call__(self, x_t, timesteps, labels):
        assert len(x_t) == len(timesteps) == len(labels)
        self.rows.append(len(x_t))
        channel = torch.arange(self.out).float().view(1, -1, 1, 1)
        return (labels.view(-1, 1, 1, 1) ** 2 + channel + 0 * x_t[:, :1]) * torch.ones(1, self.out, 1, 1)


@pytest.mark.parametrize(("channels", "guided"), [(3, 3), (None, 4), (4, 4)])
def test_cfg_guides_leading_channels_only(channels, guided):
    network, labels = Counting(8), torch.tensor([1, 2])
    x_t, timesteps = torch.zeros(2, 4, 2, 2), torch.tensor([7, 7])
    out = ClassifierFreeGuidance(network, scale=4.0, null_class=10, channels=channels)(x_t, timesteps, labels)
    plain = network(x_t, timesteps, labels)
    null = 100 + torch.arange(8).float().view(1, -1, 1, 1)
    assert network.rows[0] == 4
    torch.testing.assert_close(out[:, :guided], (null + 4 * (plain - null))[:, :guided])
    assert torch.equal(out[:, guided:], plain[:, guided:])


def test_cfg_at_scale_one_is_the_conditional_model_alone():
    network, labels, x_t = Counting(4), torch.tensor([1, 2]), torch.zeros(2, 4, 2, 2)
    out = ClassifierFreeGuidance(network, scale=1.0, null_class=10, channels=None)(x_t, labels, labels)
    assert network.rows == [2]
    assert torch.equal(out, network(x_t, labels, labels))


def test_cfg_rejects_channels_that_do_not_exist():
    guided = ClassifierFreeGuidance(Counting(4), scale=2.0, null_class=10, channels=5)
    with pytest.raises(ValueError, match="channels: expected 1 to 4"):
        guided(torch.zeros(1, 4, 2, 2), torch.zeros(1), torch.zeros(1))
