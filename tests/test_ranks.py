"""Several processes at one command: the same files as one makes, whoever of them dies, and an end in time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rank_parts
import torch
from command import quick
from distill_parts import contents
from kills import compared
from safetensors.torch import load_file

from manifoldgd import ranks
from manifoldgd.data import digits
from manifoldgd.errors import RunError, UserError
from manifoldgd.machine import Machine
from manifoldgd.priors import load_prior
from manifoldgd.priors.fit import progress_in

SUPPORT = Path(__file__).parent / "support"


def test_what_ranks_say_to_each_other(tmp_path):
    ranks.launch(2, rank_parts.meet, str(tmp_path))
    rounds = [[0.0, 0.0], [1.0, 1.0]]
    assert (tmp_path / "0").read_text() == repr(([0, 2, 4], rounds, "first", None, 0, 1))
    assert (tmp_path / "1").read_text() == repr(([1, 3], [], "first", ["made"], 0, 1))


def test_a_process_alone_is_the_first_of_one():
    assert (ranks.rank(), ranks.count(), ranks.told("it"), ranks.share([1, 2])) == (0, 1, "it", [1, 2])
    assert not ranks.started()


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("input", UserError, r"^key: the second is told of it$"),
        # Another class of error on the same way.
        pytest.param("work", RunError, r"^the second diverged$", marks=pytest.mark.slow),
        ("killed", RunError, r"process 1 of the 2 of this command was killed by SIGKILL .*the same command continues$"),
    ],
)
def test_one_that_fails_stops_the_rest_with_its_own_reason(how, error, said):
    began = time.monotonic()
    with pytest.raises(error, match=said):
        ranks.launch(2, rank_parts.fail, how)
    assert time.monotonic() - began < rank_parts.SLOW


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_the_command(number, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "import rank_parts\nfrom manifoldgd import ranks\nfrom manifoldgd.stopping import Stopped, listening\n"
        "try:\n"
        f"    with listening(): ranks.launch(2, rank_parts.wait, {str(tmp_path)!r})\n"
        "except Stopped as stop: sys.exit(stop.exit_code)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    while len(there := list(tmp_path.iterdir())) < 2:
        assert launcher.poll() is None
        time.sleep(0.05)
    began = time.monotonic()
    launcher.send_signal(number)
    assert launcher.wait(60) == (143 if number == signal.SIGTERM else -9)
    pids = [int(file.name.split("-")[1]) for file in there]
    while any(map(_alive, pids)):
        assert time.monotonic() - began < 20
        time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_set_of_two_ranks_is_that_of_one(tiny_prior, tmp_path):
    ranks.launch(2, rank_parts.distil, str(tmp_path / "two"), str(tiny_prior))
    rank_parts.distil(tmp_path / "one", tiny_prior)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_features_of_two_ranks_are_those_of_one(tiny_prior, tmp_path):
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        arguments = str(tmp_path / name), str(tiny_prior), devices
        rank_parts.features(*arguments) if devices == 1 else ranks.launch(2, rank_parts.features, *arguments)
    one, two = (torch.load(tmp_path / name / "features.pt", weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys() > {"denoiser", "components", "synthetic", "real"}
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_set_that_lost_a_rank_is_continued_by_one_process(tiny_prior, tmp_path):
    with pytest.raises(RunError, match="killed by SIGKILL"):
        ranks.launch(2, rank_parts.distil, str(tmp_path / "set"), str(tiny_prior), 4)
    assert not (tmp_path / "set" / "manifest.json").exists()
    assert len((tmp_path / "set" / "progress-1.jsonl").read_text().splitlines()) >= 4
    rank_parts.distil(tmp_path / "set", tiny_prior)
    rank_parts.distil(tmp_path / "whole", tiny_prior)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.slow  # twice the imports of a whole run; the set alone, above, and what ranks say to each other are quick
def test_a_run_on_two_devices_makes_the_files_of_one(tiny_prior, tmp_path, capfd):
    changes = ("student_seeds=[0,1]", "machine.batch_size=3", "measures=false", "guidance.neighbourhood=8")
    changes += ("guidance.neighbours=5", "guidance.tangent_dim=2")
    for place, devices in (("one", 1), ("two", 2)):
        folder = tmp_path / place
        assert quick("run", tiny_prior, folder / "cache", folder / "out", f"machine.devices={devices}", *changes) == 0
        said = capfd.readouterr()
        assert said.out.count("last-epoch accuracy") == 1
        assert said.err.count("\n") == said.err.count("ran away") <= 1  # what the tiny prior does not promise
    one, two = compared(tmp_path / "one"), compared(tmp_path / "two")
    # The pages too: what a page draws depends on the set alone. Of safetensors the header has no fixed order.
    different = {name for name in one | two if one.get(name) != two.get(name)}
    assert {name.rpartition("/")[0] for name in different} <= {"cache/prototypes", "out"}
    assert {name for name in different if name.startswith("out")} <= {"out/config.yaml"}
    for file in (tmp_path / "one" / "cache" / "prototypes").glob("*.safetensors"):
        same = [load_file(tmp_path / place / "cache" / "prototypes" / file.name) for place in ("one", "two")]
        assert all(torch.equal(same[0][name], same[1][name]) for name in same[0] | same[1])


@pytest.mark.slow
def test_a_prior_trained_by_two_processes_is_that_of_one_and_outlives_one_of_them(tmp_path):
    rank_parts.train(tmp_path / "one", devices=1)
    with pytest.raises(RunError, match="killed by SIGKILL"):
        ranks.launch(2, rank_parts.train, str(tmp_path / "two"), 2, 7)
    assert progress_in(tmp_path / "two" / "training" / "denoiser").steps == 7  # the first has saved the last whole step
    ranks.launch(2, rank_parts.train, str(tmp_path / "two"))
    files = [sorted(str(each.relative_to(tmp_path / name)) for each in (tmp_path / name).rglob("*") if each.is_file())
             for name in ("one", "two")]  # fmt: skip
    assert files[0] == files[1]
    # What they say, not their weights: norms and softmaxes take most biases away again, so that Adam steps by rounding.
    one, two = (load_prior(path=str(tmp_path / name), autoencoder=None, cfg_scale=None, cfg_channels=None)
                for name in ("one", "two"))  # fmt: skip
    images = digits(train_per_class=5, validation=None).train.images()[:20]
    latents = one.encode(images)
    torch.testing.assert_close(two.encode(images), latents, atol=5e-3, rtol=0)
    torch.testing.assert_close(
        two.decode_pixels(latents, (8, 8)), one.decode_pixels(latents, (8, 8)), atol=5e-3, rtol=0
    )
    given = torch.randn(20, 2, 4, 4), torch.arange(20) * 40, torch.arange(20) % 10
    torch.testing.assert_close(two.denoise(*given), one.denoise(*given), atol=1e-3, rtol=0)
    assert one.denoise(*given).abs().mean() > 5e-3


def test_a_number_of_processes_that_was_not_started(monkeypatch):
    numbers = {"accelerator": "cpu", "precision": "32-true", "student_precision": "32-true"}
    numbers |= {"batch_size": 1, "compile": False, "threads": 1, "progress": False}
    with pytest.raises(UserError, match=r"^nodes: .*srun --ntasks-per-node=2"):
        Machine(**numbers, devices=2, nodes=2).launches()
    for name, value in zip(ranks.TORCHRUN, ("0", "3", "0", "127.0.0.1", "1"), strict=True):
        monkeypatch.setitem(os.environ, name, value)
    with pytest.raises(UserError, match=r"^devices: expected 2 processes, 2 on each of 1 node, got 3"):
        Machine(**numbers, devices=2, nodes=1).prepare()
