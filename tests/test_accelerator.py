"""What makes the host wait for a device, step by step, and that tensors of two devices never meet.

The device is not there (``accelerator.py``), so this runs everywhere; numbers are checked by the device script.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOISE, DRAWS = "to the device at randomness.py", "to the device at students/augmentation.py"
# Noise and the draws of augmentations come from the host, so that they are the same on every device. All else stays.
ALLOWED = {
    **{
        key: {NOISE: 1}
        for key in ("none", "mode", "manifold", "kalman", "kalman_denoiser", "posterior", "projected_target")
    },
    "noised": {NOISE: 2},  # and a cloud around each row
    "manifold_released": {NOISE: 4},
    **{key: {} for key in ("repulsion", "matching", "transport", "denoiser", "regression")},
    "regression_augmented": {DRAWS: 1},
    "student": {DRAWS: 1},
    "student of large images": {DRAWS: 2},
}


@pytest.fixture(scope="module")
def waits():
    command = [sys.executable, str(Path(__file__).with_name("support") / "accelerator.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_kind_of_step_is_looked_at(waits):
    assert set(waits) == set(ALLOWED)


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_step_waits_for_nothing_but_its_draws(waits, kind):
    found = {}
    for where, count in waits[kind].items():
        file = where.rpartition(": ")[0] if ": " in where else where
        found[file] = found.get(file, 0) + count
    assert found == ALLOWED[kind], waits[kind]
