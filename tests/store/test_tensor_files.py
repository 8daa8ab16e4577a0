"""Tensors on disk know their own checksum: damage is found, once a process, and files without one become such files."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from manifoldgd import files
from manifoldgd.errors import UserError
from manifoldgd.store import tensors as module
from manifoldgd.store.tensors import read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(12.0).view(3, 4),
    "half": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "yes": torch.tensor([True, False]),
}
METADATA = {"format": "1", "what": '{"a": 1}'}


def read(file, **how):
    return read_tensors(file, again="have it made again", **how)


@pytest.fixture
def file(tmp_path):
    write_tensors(tmp_path / "new" / "x.safetensors", TENSORS, METADATA)
    return tmp_path / "new" / "x.safetensors"


def test_tensors_and_metadata_come_back(file):
    found, metadata = read(file)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in found)
    assert metadata == METADATA
    assert load_file(file).keys() == TENSORS.keys()  # for any reader
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_every_flipped_byte_is_found_or_changes_nothing(file):
    whole = file.read_bytes()
    before = read(file)
    messages, harmless = set(), 0
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        try:
            found = read(file)
        except UserError as error:
            messages.add(str(error).partition("(")[0] + str(error).rpartition(")")[2])
            continue
        harmless += 1
        assert found[1] == before[1]
        assert all(torch.equal(found[0][name], before[0][name]) for name in TENSORS)
    assert messages == {f"{file}: damaged file ; remove it to have it made again"}
    assert harmless < 10  # padding of the header


def test_a_file_of_an_earlier_version_is_taken_once_and_gets_a_checksum(file, capsys):
    save_file(TENSORS, file, metadata=METADATA)
    assert read(file)[1] == METADATA
    assert "without a checksum; taken as it is and given one" in capsys.readouterr().out
    assert read(file)[1] == METADATA
    assert capsys.readouterr().out == ""
    data = bytearray(file.read_bytes())
    data[-8] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="checksum mismatch"):
        read(file)


def test_an_earlier_version_s_file_that_is_not_ours_stays_as_it_is(file, capsys):
    save_file(TENSORS, file, metadata=METADATA)
    before = file.read_bytes()
    read(file, ours=False)
    assert file.read_bytes() == before
    assert capsys.readouterr().out == ""


def test_a_file_is_verified_once_while_it_stays_the_same(file, monkeypatch):
    asked = []
    checksum = module._checksum
    monkeypatch.setattr(module, "_checksum", lambda *parts: asked.append(1) or checksum(*parts))
    read(file)
    read(file)
    assert len(asked) == 2  # just written: a change could still go unnoticed
    monkeypatch.setattr(files, "SETTLED_SECONDS", 0.0)
    read(file)
    read(file)
    assert len(asked) == 3
    os.utime(file, (1, 1))
    read(file)
    assert len(asked) == 4


def test_the_remedy_is_one(file):
    file.write_bytes(b"x" * 99)
    with pytest.raises(UserError, match="remove it"):
        read(file)
    file.unlink()
    write_tensors(file, TENSORS)
    assert read(file)[1] == {}
    file.unlink()
    with pytest.raises(UserError, match="damaged file"):
        read(file)
