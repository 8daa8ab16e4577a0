"""What torch.save wrote is read as it was written, or not at all."""

import pytest
import torch

from manifoldgd.archives import load_archive
from manifoldgd.errors import UserError
from manifoldgd.priors.fit import progress_in


def flipped(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0x01
    file.write_bytes(data)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_whole_file_is_read(tmp_path, legacy, mmap):
    if mmap and legacy:
        pytest.skip("torch maps archives only")
    held = {"weights": torch.arange(100.0), "steps": 3}
    torch.save(held, tmp_path / "it.pt", _use_new_zipfile_serialization=not legacy)
    found = load_archive(tmp_path / "it.pt", mmap=mmap)
    assert found["steps"] == 3
    assert torch.equal(found["weights"], held["weights"])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found(tmp_path, share):
    torch.save({"weights": torch.randn(100_000)}, tmp_path / "it.pt")
    assert len(torch.load(tmp_path / "it.pt", weights_only=True)["weights"]) == 100_000
    flipped(tmp_path / "it.pt", int(share * (tmp_path / "it.pt").stat().st_size))
    with pytest.raises(ValueError, match=r"inside is not what was written"):
        load_archive(tmp_path / "it.pt")


def test_the_state_of_a_prior_s_training_is_not_continued_when_it_is_damaged(tmp_path):
    state = {"global_step": 7, "callbacks": {"Stopwatch": {"seconds": 1.0}}, "state_dict": torch.randn(1000)}
    torch.save(state, tmp_path / "last.ckpt")
    assert progress_in(tmp_path).steps == 7
    flipped(tmp_path / "last.ckpt", (tmp_path / "last.ckpt").stat().st_size // 2)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged .*remove it"):
        progress_in(tmp_path)
