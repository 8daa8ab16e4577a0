"""Full disks, paths that cannot be, folders that vanish: one line with path and reason, exit 1, and nothing is lost."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import quick
from safetensors.torch import save_file

from manifoldgd.cli.explain import REMEDIES, explain_system
from manifoldgd.files import atomic_path, atomic_write_text, naming
from manifoldgd.store.sets import load_set

ROOT = Path(__file__).parents[1]


def complaint(capsys):
    err = capsys.readouterr().err
    assert err.startswith("manifoldgd: error: "), err
    assert err.count("\n") == 1, err
    return err.removeprefix("manifoldgd: error: ")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many KiB; needs to be root."""
    mounted = []

    def mount(kib, *options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kib}k", *options]), "tmpfs", str(folder)]
        if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a disk takes root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_a_set_which_continues_when_there_is_room(capsys, small_disk, tiny_prior, tmp_path):
    keys = ("guidance=none", "ipc=4", "machine.batch_size=4")
    assert quick("distill", tiny_prior, tmp_path / "c", tmp_path / "whole", *keys) == 0
    capsys.readouterr()
    disk = small_disk(96)
    assert quick("distill", tiny_prior, tmp_path / "c", disk / "o", *keys) == 1
    said = complaint(capsys)
    assert said.startswith(str(disk / "o"))
    assert "No space left on device; free some space; what is finished is kept" in said
    made = len(list((disk / "o" / "set").rglob("[0-9]*.png")))
    assert 0 < made < 40
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert quick("distill", tiny_prior, tmp_path / "c", disk / "o", *keys) == 0
    assert torch.equal(load_set(disk / "o").images, load_set(tmp_path / "whole").images)


def test_a_disk_that_cannot_be_written_is_named(capsys, small_disk, tiny_prior, tmp_path):
    disk = small_disk(512)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert quick("distill", tiny_prior, tmp_path / "c", disk / "o", "guidance=none") == 1
    assert "Read-only file system; choose another place with output=FOLDER" in complaint(capsys)


@pytest.mark.parametrize("command", ["distill", "run"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("x" * 300, "File name too long; choose a shorter path"),
        ("file/inside", "a file stands where a folder is needed"),
    ],
    ids=["long", "file"],
)
def test_a_path_that_cannot_be_is_named(capsys, tiny_prior, tmp_path, command, place, reason):
    (tmp_path / "file").write_text("mine")
    for output, cache in ((tmp_path / place, tmp_path / "c"), (tmp_path / f"o-{command}", tmp_path / place)):
        assert quick(command, tiny_prior, cache, output, "guidance=mode", "ipc=1") == 1
        said = complaint(capsys)
        assert said.startswith(str(tmp_path / place)[:40])
        assert reason in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_working_folder_that_was_removed_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    shown = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m manifoldgd distill dataset=digits"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr == "manifoldgd: error: the working folder was removed; change to one that exists (cd)\n"


def test_errors_without_a_path_get_that_of_the_file_under_way(tmp_path):
    def write(part):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_write_text(tmp_path / "kept.txt", "old")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*kept.txt'"),
        atomic_path(tmp_path / "kept.txt") as part,
    ):
        write(part)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "old"


def test_errors_that_libraries_wrap_are_the_system_s(small_disk):
    disk = small_disk(64)
    weights = {"w": torch.zeros(1 << 20)}
    for name, write in (
        ("one.safetensors", lambda part: save_file(weights, part)),
        ("one.pt", lambda part: torch.save(weights, part)),
    ):
        with (
            pytest.raises(OSError, match=rf"No space left on device: '.*{name}'") as full,
            atomic_path(disk / name) as part,
        ):
            write(part)
        assert explain_system(full.value).startswith(f"{disk / name}: No space left on device; free some space")
        assert not any(disk.iterdir())


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ValueError, match="mine"), naming(tmp_path / "x"):
        raise ValueError("mine")


@pytest.mark.parametrize("number", REMEDIES)
def test_every_kind_says_path_reason_and_what_to_do(number):
    said = explain_system(OSError(number, os.strerror(number), "/some/where"))
    place, reason, *remedy = (part.strip() for part in said.replace(": ", "; ", 1).split(";"))
    assert (place, reason) == ("/some/where", os.strerror(number))
    assert all(remedy)


ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_terminal_that_knows_ascii_alone_gets_escapes(tmp_path):
    """Names, titles and messages may hold anything."""
    environment = {**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "manifoldgd"]
    for arguments in (["table"], ["distill", "--help"], ["distill", "set=été", "dataset=digits"], ["table", "table=é"]):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, timeout=120, cwd=tmp_path
        )
        assert "Traceback" not in done.stderr, arguments
        assert done.stdout.isascii()
        assert done.stderr.isascii()


def test_names_of_any_kind_survive_a_terminal_that_knows_ascii_alone(tmp_path, pets):
    accented = pets.parent / "photos"
    shutil.copytree(pets, accented)
    for split in accented.iterdir():
        first = sorted(split.iterdir())[0]
        first.rename(split / "café")
    keys = ("image_size=8", "channels=1", f"folder={accented}")
    command = [sys.executable, "-m", "manifoldgd", "distill", "dataset=image_folder", "ipc=1", "source=random"]
    command += [*(f"dataset.{key}" for key in keys), "output=out", "machine=cpu", "machine.threads=1"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "café" in load_set(tmp_path / "out").class_names
