"""The command line, called in this process."""

import sys

from hydra.core.global_hydra import GlobalHydra

from manifoldgd.cli.main import run

QUICK = (
    "logger=none",
    "machine=cpu",
    "machine.threads=1",
    "machine.progress=false",
    "student_seeds=[0]",
    "student.width=8",
    "student.protocol.epochs=1",
    "ipc=1",
    "sampler.steps=3",
)


def manifoldgd(*arguments):
    """Exit code of ``manifoldgd ARGUMENTS``."""
    GlobalHydra.instance().clear()
    before = sys.argv
    code = run([str(each) for each in arguments])
    assert sys.argv is before
    return code


def quick(command, prior, cache, output, *changes):
    """Exit code of a command on digits with everything small and nothing measured; later arguments win."""
    judged = command in ("run", "evaluate")
    makes = command in ("run", "distill")
    keys = [
        each
        for each in QUICK
        if (judged or not each.startswith(("logger", "student"))) and (makes or not each.startswith(("ipc", "sampler")))
    ]
    given = {change.split("=", 1)[0] for change in changes}
    keys = [each for each in keys if each.split("=", 1)[0] not in given]
    keys += ["measures=false"] if judged and "measures" not in given else []
    prior_key = [f"prior.path={prior}"] if makes and "prior.path" not in given else []
    output_key = [] if "output" in given or output is None else [f"output={output}"]
    cache_key = [] if "cache" in given else [f"cache={cache}"]
    return manifoldgd(command, "dataset=digits", *keys, *prior_key, *cache_key, *output_key, *changes)
