"""Commands ended at random moments and given again: do they come to the artifacts of an undisturbed run?

``python tests/support/kills.py [COMMAND ...] [--trials N]`` prints a line a command; ``test_kills.py`` asks for a few.
Each trial works in folders of its own, in a child forked from a process that has imported everything, so that the
moments fall on the work and not on the imports.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS_TO_STOP = 5.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PLAIN = ("machine=cpu", "machine.threads=1", "machine.progress=false", "cache=cache", "output=out")
SMALL = ("dataset=digits", "ipc=2", "sampler.steps=20", "guidance=mode", "machine.batch_size=4", *PLAIN)
JUDGED = ("logger=none", "student_seeds=[0,1]", "student.width=8", "student.protocol.epochs=20", "measures=false")
RECIPE = [
    f"recipe.{key}"
    for key in (
        "autoencoder.block_channels=[8,8]",
        "autoencoder.steps=60",
        "autoencoder.batch_size=32",
        "denoiser.width=32",
        "denoiser.layers=1",
        "denoiser.steps=100",
        "denoiser.batch_size=32",
        "judge_samples=10",
    )
]
COMMANDS = {
    "encode": ("distill", *SMALL, "ipc=1", "sampler.steps=1", "machine.batch_size=1"),
    "distill": ("distill", *SMALL),
    "run": ("run", *SMALL, *JUDGED),
    "prior": ("prior", "dataset=digits", *PLAIN, *RECIPE),
    "table": ("table", "table=toy", "jobs=1", "columns=one", "seeds=0", "methods=[random,unguided]", "output=out"),
}
# Pages, cards and tables state times.
TIMED = ("lock", ".html", ".log", ".csv", ".md", ".tex")
TIMES = ("seconds", "code_version", "file_checksum")  # what no two runs share, and the checksum over it


def prepare(folder):
    """An empty working folder with what the commands need."""
    folder.mkdir()
    os.chdir(folder)


def start(arguments, log):
    """Fork a child that runs a command; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        # Pytest has put objects of its own in their place, which write elsewhere.
        sys.stdout, sys.stderr = (open(each, "w", buffering=1, closefd=False) for each in (1, 2))  # noqa: SIM115  for good
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
        from command import manifoldgd

        code = manifoldgd(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(child):
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def artifacts(folder):
    """Hash of every file that a run leaves, times left out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if not file.is_file() or file.name.endswith(TIMED):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            held = _timeless(json.loads(data))
            if file.name == "checksums.json":  # of a prior: its cards state times, all its other files stand here too
                held = {name: each for name, each in held.items() if name.endswith(".safetensors")}
            data = json.dumps(held, sort_keys=True).encode()
        found[name] = hashlib.blake2b(data, digest_size=8).hexdigest()
    return found


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def compared(folder):
    """The artifacts of a trial's output and cache, without what only an unfinished run needs."""
    found = {f"{part}/{name}": each for part in ("out", "cache") for name, each in artifacts(folder / part).items()}
    unfinished = ("/training/", "/logs/", "progress.jsonl")
    return {name: each for name, each in found.items() if not any(part in name for part in unfinished)}


def trial(arguments, number, moment, reference, log):
    """End a command at a moment, give it again: what went wrong, whether it was at work, the seconds to its end."""
    child = start(arguments, log)
    time.sleep(moment)
    os.kill(child, number)
    asked = time.monotonic()
    code, seconds = end(child), time.monotonic() - asked
    wrong = []
    said = log.read_text().splitlines()
    # Before the interpreter runs our first line the system ends it, which a shell reports as the same exit code.
    asleep = code == -number and not said
    if code != 0 and not asleep:
        expected = -9 if number == signal.SIGKILL else 128 + number
        if code != expected:
            wrong.append(f"exit code {code}, expected {expected}")
        if number != signal.SIGKILL and seconds > SECONDS_TO_STOP:
            wrong.append(f"took {seconds:.1f} s to stop")
        if number != signal.SIGKILL and "stopped by" not in "".join(said[-1:]):
            wrong.append(f"last line: {said[-1:]}")
    again = end(start(arguments, log))
    if again != 0:
        wrong.append(f"given again: exit code {again}")
    else:
        found = compared(Path.cwd())
        wrong += [f"differs: {name}" for name in sorted({*found, *reference}) if found.get(name) != reference.get(name)]
    return "; ".join(wrong) or None, code != 0 and not asleep, seconds


def trials(name, count, root, *, seed=0):
    """End a command at ``count`` random moments; returns the trials that went wrong, and how many met it at work."""
    prepared = WORLD.get(name, lambda: None)
    arguments, draw = COMMANDS[name], random.Random(f"{name} {seed}")
    prepare(root / f"{name}-whole")
    prepared()
    began = time.monotonic()
    code = end(start(arguments, root / f"{name}-whole.log"))
    duration = time.monotonic() - began
    assert code == 0, (root / f"{name}-whole.log").read_text()
    reference, wrong, met, slowest = compared(Path.cwd()), [], 0, 0.0
    for one in range(count):
        prepare(root / f"{name}-{one}")
        prepared()
        number, moment = SIGNALS[one % len(SIGNALS)], draw.uniform(0, duration)
        problem, at_work, seconds = trial(arguments, number, moment, reference, root / f"{name}-{one}.log")
        met += at_work
        slowest = max(slowest, seconds if number != signal.SIGKILL else 0)
        if problem:
            wrong.append(f"{name} {one}, {number.name} after {moment:.2f} of {duration:.2f} s: {problem}")
            print(wrong[-1], flush=True)
    return wrong, met, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    load()
    with tempfile.TemporaryDirectory() as place:
        for name in asked.commands:
            wrong, met, slowest = trials(name, asked.trials, Path(place), seed=asked.seed)
            print(
                f"{name}: {asked.trials - len(wrong)} of {asked.trials} came to the same artifacts, {met} were met at "
                f"work; the slowest stopped in {slowest:.1f} s",
                flush=True,
            )


def load():
    """Import what commands import, once."""
    import torch

    torch.set_num_threads(1)
    import faiss  # noqa: F401
    import lightning  # noqa: F401
    from command import manifoldgd  # noqa: F401

    from manifoldgd.cli import commands, study  # noqa: F401


def _toy():
    import toy_table

    few = {"sampler.steps": 5, "student.protocol.epochs": 20, "measures": False, "cache": "cache"}
    toy_table.write(overrides={**toy_table.TOY["overrides"], **few})


def _judge():
    from tiny import quick_classifier

    kept = Path.cwd().parent / "classifiers"
    if not kept.is_dir():
        quick_classifier(kept)
    shutil.copytree(kept, "cache")


WORLD = {"table": _toy, "prior": _judge}

if __name__ == "__main__":
    main()
