"""Our numbers against those of the paper's released code, and against a twin in numpy at another latent shape."""

import numpy as np
import pytest
from reference_checks import CHECKS, Ledger
from reference_twin import twin_vectors


@pytest.fixture(scope="module")
def recorded(pytestconfig):
    with np.load(pytestconfig.getoption("--reference-vectors")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def ledgers(recorded, pytestconfig, largest_errors):
    """One ledger for each file: the recorded one and twins of other latent shapes."""
    files = {pytestconfig.getoption("--reference-vectors").name: recorded}
    files["twin, latents 2 x 3 x 5"] = twin_vectors(seed=1, latent=(2, 3, 5), clouds=40)
    files["twin, latents 16 x 6 x 4"] = twin_vectors(seed=2, latent=(16, 6, 4), clouds=70)
    books = {name: Ledger(vectors) for name, vectors in files.items()}
    for name, book in books.items():
        largest_errors[name] = book.errors
    return books


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("position", [0, 1, 2], ids=["file", "twin-2x3x5", "twin-16x6x4"])
def test_every_number_is_reproduced(ledgers, position, check):
    check(list(ledgers.values())[position])


def test_no_key_is_left_unchecked(recorded):
    ledger = Ledger(recorded)
    for check in CHECKS:
        check(ledger)
    assert ledger.unchecked() == set()
    assert len(ledger.compared) > 0


def test_a_key_nobody_knows_is_reported(recorded):
    ledger = Ledger({**recorded, "ddpm/t49/d3/surprise": np.zeros(1)})
    assert "ddpm/t49/d3/surprise" in ledger.unchecked()


@pytest.mark.parametrize("suffix", ["x_prev", "normal_pull", "tangent_basis_projector_on_mode", "mean", "log_variance"])
def test_a_wrong_number_is_noticed(recorded, suffix):
    key = next(key for key in recorded if key.endswith(suffix))
    wrong = {**recorded, key: recorded[key] * (1 + 3e-4)}
    with pytest.raises(AssertionError, match=suffix):
        CHECKS[3](Ledger(wrong))
