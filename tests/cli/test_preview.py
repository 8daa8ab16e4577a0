"""``--dry-run`` of the commands that make and judge sets: everything is checked, said, and nothing is made."""

import pytest
from command import manifoldgd

import manifoldgd as mgd
from manifoldgd.errors import UserError

REAL = ("dataset=digits", "source=random", "ipc=2", "measures=false", "logger=none")


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def results(folder):
    return sorted(file.name for file in (folder / "outputs").glob("*/*") if "cache" not in file.parts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["run", *REAL],
            ("1,442 training and 355 test images", "random, 2 images a class, to be made", "2 of ConvNet-3"),
        ),
        (["distill", *REAL[:3]], ("random, 2 images a class, to be made",)),
        (
            ["evaluate", "set=bundled:digits-ipc1", "dataset=digits", "measures=false"],
            ("matching, 10 images", "students:"),
        ),
    ],
)
def test_it_says_what_would_be_done_and_leaves_nothing(capsys, tmp_path, words, said):
    assert manifoldgd(*words, "--dry-run") == 0
    out = capsys.readouterr().out
    assert all(each in out for each in said)
    assert "result: outputs/digits/" in out
    assert results(tmp_path) == []


def test_what_cannot_work_is_refused_as_by_the_command(capsys):
    assert manifoldgd("run", *REAL, "ipc=2000", "--dry-run") == 2
    assert "ipc: expected at most" in capsys.readouterr().err


def test_of_a_grid_it_counts_the_jobs(capsys, tmp_path):
    grid = ["run", "--multirun", *REAL[:2], "ipc=1,2,2000", *REAL[3:], "--dry-run"]
    assert manifoldgd(*grid) == 1  # as one of them cannot run
    out = capsys.readouterr().out
    assert "3 jobs: 0 finished, 2 left, 1 cannot run" in out
    assert "ipc=2000" in out
    assert results(tmp_path) == []


def test_jobs_that_are_not_known_beforehand_have_none(capsys):
    assert manifoldgd("distill", "--multirun", *REAL[:2], "ipc=1,2", "--dry-run") == 2
    assert "dry_run" in capsys.readouterr().err


def test_the_library_runs_or_refuses():
    with pytest.raises(UserError, match="dry_run"):
        mgd.run(mgd.compose([*REAL, "dry_run=true"]))


def test_a_batch_that_leaves_a_process_without_an_image_is_refused(capsys):
    words = ("dataset=digits", "machine=cpu", "machine.devices=3", "recipe.denoiser.batch_size=2")
    assert manifoldgd("prior", *words, "--dry-run") == 2
    err = capsys.readouterr().err
    assert "recipe.denoiser.batch_size: expected at least 3, an image for each process, got 2" in err
