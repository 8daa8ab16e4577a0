"""Settings of the whole suite."""

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composition
import pytest
import torch
from drawing import undraw
from fake_tables import rich_table

from manifoldgd.study import run
from manifoldgd.study.rendering import write_table
from manifoldgd.study.results import TableResult

DEFAULT_VECTORS = Path(__file__).parent / "data" / "manifoldgd_reference_vectors.npz"
ERRORS = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-vectors",
        type=Path,
        default=DEFAULT_VECTORS,
        metavar="FILE",
        help="npz file laid out like tests/data/manifoldgd_reference_vectors.npz; every key of it is checked",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell has put into the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Spinning threads of oversubscribed cores cost more than a second core gives to tensors of this size.
    torch.set_num_threads(1)
    composition.remember()
    run.POLL_SECONDS = 0.02  # the cells of most tests are a line of Python
    config.stash[ERRORS] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, groups in config.stash[ERRORS].items():
        terminalreporter.section(f"largest errors against {name}")
        for group, error in sorted(groups.items()):
            terminalreporter.write_line(f"{group:40s} {error:.2e}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes: told to the one that prints
        session.config.workeroutput["errors"] = session.config.stash[ERRORS]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    for name, groups in getattr(node, "workeroutput", {}).get("errors", {}).items():
        known = node.config.stash[ERRORS].setdefault(name, {})
        known.update({group: max(error, known.get(group, 0.0)) for group, error in groups.items()})


@pytest.fixture(scope="session")
def largest_errors(pytestconfig: pytest.Config) -> dict[str, dict[str, float]]:
    """File name -> group -> largest error, printed at the end of the session."""
    return pytestconfig.stash[ERRORS]


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory) -> Path:
    """A prior for 8x8 grey digits with random weights, as ``write_prior`` writes it."""
    from tiny import write_tiny_prior

    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny")


@pytest.fixture(scope="module")
def prior(tiny_prior):
    """The tiny prior, loaded."""
    from manifoldgd.priors import load_prior

    return load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)


@pytest.fixture(scope="module")
def dataset():
    """Twelve digits of each class to learn from."""
    from manifoldgd.data import digits

    return digits(train_per_class=12, validation=None)


@pytest.fixture(scope="session")
def dit_lookalike(tmp_path_factory) -> Path:
    """DiT-XL/2-256 in small: learned variance, DDIM scheduler, weights in ``.bin`` files, ImageNet's way with names."""
    from tiny import write_dit_lookalike

    return write_dit_lookalike(tmp_path_factory.mktemp("priors") / "dit")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache with an embedding network for digits that took a moment to train."""
    from tiny import quick_classifier

    cache = tmp_path_factory.mktemp("cache")
    quick_classifier(cache)
    return cache


@pytest.fixture(autouse=True)
def no_memory_of_checked_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests leave nothing in the user's cache and find nothing there."""
    for name in ("image_folder", "image_dataset"):
        module = importlib.import_module(f"manifoldgd.data.{name}")
        monkeypatch.setattr(module, "record_of", lambda folder: tmp_path / ".contents.bin")
    monkeypatch.setattr(
        importlib.import_module("manifoldgd.files"),
        "hash_memory",
        lambda: tmp_path.with_name(f"{tmp_path.name}.hashes"),
    )


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests end processes but never the machine, which is what files are flushed to the disk against."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def plots() -> None:
    """Plots are drawn in tests that ask for this, and in slow ones."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots of pages are not drawn where nobody looks at them."""
    if "plots" not in request.fixturenames and not request.node.get_closest_marker("slow"):
        undraw(monkeypatch)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images in class folders."""
    from data_parts import write_pets

    return write_pets(tmp_path / "pets")


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, ...]:
    """A hundred digits to train on, and the test split."""
    from student_parts import hundred_digits

    return hundred_digits()


@pytest.fixture
def toy_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_prior: Path) -> None:
    """A folder of its own with the table ``toy``."""
    from toy_table import write

    monkeypatch.chdir(tmp_path)
    write(prior=tiny_prior)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what is run for the cells of a study; returns the function that says by what. No figures are drawn."""
    from fake_cells import fake_job

    from manifoldgd.study import rendering
    from manifoldgd.study.rendering import write_texts

    def numbers_only(folder: Path, result: TableResult, *, scores: bool) -> str:
        write_texts(folder, result, scores=scores)
        return ""

    monkeypatch.setattr(rendering, "write_table", numbers_only)

    def use(scripts: dict[str, str] | None = None, **how: Any) -> None:
        monkeypatch.setattr(run, "job_of", fake_job(scripts, **how))

    use()
    return use


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A table with everything that tables can have, written without plots: its folder, and what the terminal shows."""
    folder = tmp_path_factory.mktemp("rich")
    with pytest.MonkeyPatch.context() as patch:
        undraw(patch)
        return folder, write_table(folder, rich_table(folder))
