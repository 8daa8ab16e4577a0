"""What is installed elsewhere: the wheel holds all that commands need, and needs no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, *command, str(place), str(ROOT)], check=True, timeout=300, capture_output=True)
    (wheel,) = place.glob("manifoldgd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


@pytest.fixture
def command(installed, tmp_path):
    """Runs ``manifoldgd`` as installed, in an empty folder."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-P", "-m", "manifoldgd", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return run


def test_the_wheel_holds_configuration_tables_records_weights_and_types(installed):
    for wanted in (
        "conf/config.yaml",
        "experiments/digits/table.yaml",
        "experiments/digits/results.json",
        "study/published_results.csv",
        "py.typed",
    ):
        assert (installed / "manifoldgd" / wanted).is_file(), wanted
    assert list((installed / "manifoldgd" / "weights").rglob("*.safetensors"))
    assert not list(installed.rglob("test_*.py"))


def test_a_table_is_planned_from_its_definition(command, installed):
    cell = ("columns=ipc1-convnet3", "methods=random", "seeds=0")
    done = command("table", "table=digits", "--dry-run", *cell)
    assert done.returncode == 0, done.stderr
    assert "table digits" in done.stdout
    listed = command("table")
    assert "fashion_mnist" in listed.stdout


@pytest.mark.slow
def test_the_main_job(command, tmp_path):
    done = command("run", "experiment=smoke", "dataset=digits", "machine=cpu", "logger=none", "output=out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert "accuracy" in done.stdout


@pytest.mark.slow
def test_a_record_becomes_a_page(command, tmp_path):
    done = command("table", "table=digits", "pages=true", "output=page")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "report.html").is_file()
