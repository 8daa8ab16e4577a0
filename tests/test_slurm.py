"""A cluster of one node: a study through submitit, one command by two tasks, a job that is requeued."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm
from command import QUICK
from kills import compared

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(slurm.missing() is not None, reason=f"no Slurm here: {slurm.missing()}"),
]
COMMAND = (sys.executable, "-m", "manifoldgd")
SECONDS = 600  # for a job


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        yield {**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def words(command, prior, folder, *changes):
    kept = [each for each in QUICK if command == "run" or not each.startswith(("logger", "student"))]
    places = (f"cache={folder / 'cache'}", f"output={folder / 'out'}", f"prior.path={prior}")
    return [*COMMAND, command, "dataset=digits", *kept, *places, "guidance=mode", "machine.batch_size=1", *changes]


def done(command, environment, folder):
    found = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def images(folder):
    return {name: each for name, each in compared(folder).items() if name.endswith((".png", ".npy"))}


def test_two_tasks_make_the_set_of_one_process(cluster, tiny_prior, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    done(words("distill", tiny_prior, alone), cluster, tmp_path)
    tasks = words("distill", tiny_prior, both, "machine.devices=2")
    said = done(["srun", "-n", "2", "--kill-on-bad-exit=1", *tasks], cluster, tmp_path)
    assert said.stdout.count("set: 10 images") == 1
    assert len(images(alone)) == 12  # ten images, the latents and their labels
    assert images(both) == images(alone)


def test_a_requeued_job_continues(cluster, tiny_prior, tmp_path):
    alone, job = tmp_path / "alone", tmp_path / "job"
    done(words("distill", tiny_prior, alone, "sampler.steps=300"), cluster, tmp_path)
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\nexec " + " ".join(words("distill", tiny_prior, job, "sampler.steps=300")) + "\n")
    log = tmp_path / "log"
    queued = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={log}", str(script)]
    number = done(queued, cluster, tmp_path).stdout.strip()
    ended = time.monotonic() + SECONDS
    while not list(job.glob("out/set/*/*.png")):
        assert time.monotonic() < ended, log.read_text()
        time.sleep(0.05)
    done(["scontrol", "requeue", number], cluster, tmp_path)
    while slurm.state(number, cluster)[0] != "COMPLETED":
        assert time.monotonic() < ended, log.read_text()
        time.sleep(0.5)
    assert slurm.state(number, cluster)[1] == 1
    assert images(job) == images(alone)


def test_a_grid_runs_through_submitit(cluster, tiny_prior, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    changes = ["measures=false", "guidance.scale=0.1,0.2", "hydra/launcher=submitit_slurm", "jobs=2"]
    changes += [f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    given = [each for each in words("run", tiny_prior, tmp_path, *changes) if not each.startswith("output=")]
    given.insert(len(COMMAND) + 1, "--multirun")
    said = done(given, cluster, tmp_path)
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("\n") == 3, said.stdout
