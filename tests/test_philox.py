"""Draws by counter: their authors' known answers, closed forms, and the same numbers whatever is asked at once."""

import math

import numpy as np
import pytest
import torch

from manifoldgd import philox
from manifoldgd.philox import normal
from manifoldgd.randomness import RowKey, RowNoise

# Counter, key and words of Random123's own tests (kat_vectors, philox4x32 10).
ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
RECORDED = [1065204531, -1083394384, -1088545889, -1091120718]  # 0.9911, -0.9247, -0.6176, -0.4821
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI[:4], PI[4:], (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    found = philox.philox([torch.tensor([each]) for each in counter], [torch.tensor(each) for each in key])
    assert tuple(int(word) for word in found) == words


def test_logarithm_and_angles_are_those_of_the_library():
    words = torch.cat([torch.tensor([0, 1, ONES, ONES - 1]), torch.randint(0, 2**32, (100_000,))])
    words = torch.cat([words, (torch.arange(9)[:, None] * 2**29 + torch.arange(-1, 2)).flatten().clamp(0, ONES)])
    unit = (words.double() + 0.5) / 2**32
    np.testing.assert_allclose(philox._log(unit), np.log(unit.numpy()), rtol=4e-15, atol=4e-16)
    sine, cosine = philox._sine_cosine(words)
    turns = 2 * math.pi * unit.numpy()
    np.testing.assert_allclose(sine, np.sin(turns), atol=1e-15)
    np.testing.assert_allclose(cosine, np.cos(turns), atol=1e-15)


def test_draws_are_normal_and_independent():
    drawn = normal([1, 2], (200_000,)).double()
    for row in drawn:
        assert abs(row.mean()) < 0.01
        assert abs(row.std() - 1) < 0.01
        assert abs((row**3).mean()) < 0.03
        assert abs((row**4).mean() - 3) < 0.06
        shares = torch.special.ndtr(row).sort().values
        assert (shares - torch.arange(len(row)) / len(row)).abs().max() < 1.95 / math.sqrt(len(row))  # KS, 0.1 %
    pairs = [(drawn[0], drawn[1]), (drawn[0, :-1], drawn[0, 1:]), (drawn[0, :-2], drawn[0, 2:])]
    assert all(abs((one * other).mean()) < 0.01 for one, other in pairs)


def test_a_number_depends_on_key_and_place_alone(monkeypatch):
    whole = normal([7, 2**63 - 1], (5, 13))
    assert torch.equal(normal([2**63 - 1], (5, 13))[0], whole[1])
    assert torch.equal(normal([7], (31,))[0], whole[0].flatten()[:31])
    monkeypatch.setattr(philox, "BLOCK_ON_CPU", 3)
    assert torch.equal(normal([7, 2**63 - 1], (5, 13)), whole)
    assert whole.dtype == torch.float32


def test_the_bits_stay_what_they_are():
    """A set that names this generator is made again bit for bit."""
    first = normal([0], (4,))[0].view(torch.int32).tolist()
    assert first == RECORDED


def test_rows_have_streams_of_their_own():
    rows = [RowKey("cat", 0), RowKey("cat", 1), RowKey("cat", 0, 1)]
    drawn = RowNoise(3, rows).normal("cloud", 5, (6,), "philox4x32-10")
    again = RowNoise(3, rows[::-1]).normal("cloud", 5, (6,), "philox4x32-10")
    assert torch.equal(drawn, again.flip(0))
    others = [
        RowNoise(4, rows).normal("cloud", 5, (6,), "philox4x32-10"),
        RowNoise(3, rows).normal("cloud", 4, (6,), "philox4x32-10"),
        RowNoise(3, rows).normal("noise", 5, (6,), "philox4x32-10"),
        RowNoise(3, rows).normal("cloud", 5, (6,)),
    ]
    assert len({tuple(row) for each in [drawn, *others] for row in each.tolist()}) == 15
