"""What a machine says of itself, and keeps quiet about."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

import manifoldgd as mgd
from manifoldgd.system import peak_memory


@pytest.mark.parametrize(
    ("capabilities", "precision", "remarked"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "bf16-mixed", True),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "32-true", False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "bf16-mixed", False),
        ({"architecture": "aarch64"}, "bf16-mixed", False),
    ],
)
def test_bfloat16_is_remarked_on_where_it_is_slow(monkeypatch, capabilities, precision, remarked):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    machine = mgd.build("machine=cpu", f"machine.student_precision={precision}")
    assert (machine.slow_rounding is not None) == remarked
    assert machine.slow_rounding is None or machine.slow_rounding.startswith("machine.student_precision: ")


def test_what_lightning_remarks_is_not_shown():
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)  # as on its first import
    mgd.build("machine=cpu").trainer()
    assert not logging.getLogger("lightning.pytorch.trainer").isEnabledFor(logging.INFO)


def test_a_process_is_not_charged_what_the_one_that_started_it_held():
    held = np.ones(40_000_000)  # 320 MB
    code = "from manifoldgd.system import peak_memory as p; a = p(); b = b'x' * 60_000_000; print(a, p())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, told.split())
    assert before < held.nbytes
    assert after - before > 50_000_000
    assert peak_memory() > held.nbytes
