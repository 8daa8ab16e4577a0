"""Bad input, each kind once: exit code 2, one line on stderr, no traceback, and what to do."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from command import manifoldgd, quick
from PIL import Image
from tiny import cpu, write_tiny_prior

from manifoldgd import __version__
from manifoldgd.cli import commands
from manifoldgd.data import digits
from manifoldgd.errors import UserError
from manifoldgd.pipeline import latents
from manifoldgd.priors import load_prior
from manifoldgd.store.results import claim_result


@pytest.fixture(autouse=True)
def somewhere_else(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def complaint(capsys, code):
    """The one line on stderr, without its beginning."""
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("manifoldgd: error: ")
    assert "Traceback" not in err
    return err.removeprefix("manifoldgd: error: ").strip()


def holds(text, *parts):
    missing = [part for part in parts if part not in text]
    assert not missing, text


# What is wrong, what the message must say.
COMPOSITION = [
    (["run", "dataset=digit"], ("dataset: no choice named 'digit'", "digits, fashion_mnist")),
    (["run", "student/protocol=soft"], ("student/protocol: no choice named 'soft'", "hard_large")),
    (["run", "guidence=mode"], ("unknown key 'guidence'", "did you mean 'guidance'")),
    (["run", "guidance.scael=1"], ("unknown key 'guidance.scael'", "did you mean 'guidance.scale'")),
    (["run", "+guidance.scael=1"], ("unknown key 'guidance.scael'", "did you mean 'scale'")),
    (["run", "+speed=1"], ("unknown key 'speed'", "did you mean 'seed'")),
    (["run", "wibble=1"], ("unknown key 'wibble'",)),
    (["rum"], ("unknown command 'rum'", "run, distill, evaluate, table, prior")),
    (["run", "ipc"], ("ipc",)),
    (["distill", "student=resnet18"], ("`manifoldgd distill` does not use 'student'", "it uses")),
    (["distill", "student_seeds=[1]"], ("does not use 'student_seeds'",)),
    (["evaluate", "guidance=mode"], ("`manifoldgd evaluate` does not use 'guidance'",)),
    (["prior", "guidance.scale=1"], ("`manifoldgd prior` does not use 'guidance.scale'",)),
    (["evaluate", "logger=none"], ("set: needs a distilled set", "bundled:NAME")),
    (
        ["evaluate", "logger=none", "set=nowhere"],
        ("set: found no folder or file nowhere", "manifoldgd distill"),
    ),
    (["run", "dataset=image_folder"], ("dataset.folder: needs a value and has none",)),
    (["run", "dataset=image_folder", "dataset.folder=nowhere"], ("dataset.folder", "nowhere")),
]


@pytest.mark.parametrize(("arguments", "parts"), COMPOSITION, ids=lambda each: " ".join(map(str, each))[:40])
def test_what_cannot_be_composed(capsys, arguments, parts):
    quiet = ["logger=none"] if arguments[0] == "run" and len(arguments) > 1 and "folder" in arguments[-1] else []
    holds(complaint(capsys, manifoldgd(*arguments, *quiet)), *parts)


NUMBERS = [
    (["ipc=0"], ("ipc: expected a whole number in [1, 1000000], got 0",)),
    (["ipc=-1"], ("ipc: expected a whole number in", "got -1")),
    (["ipc=1.5"], ("ipc: expected a whole number in [1, 1000000], got 1.5",)),
    (["ipc=5000"], ("ipc: expected at most", "got 5000", "lower ipc")),
    (["guidance.scale=-0.1"], ("guidance.scale: expected a number in [0, 1000], got -0.1",)),
    (
        ["guidance.tangent_dim=8", "guidance.neighbours=8"],
        ("guidance.tangent_dim", "neighbours=8", "lower tangent_dim"),
    ),
    (["guidance.neighbourhood=1000"], ("guidance.neighbourhood: expected at most the", "got 1000")),
    (["guidance.estimator=magic"], ("guidance.estimator: expected", "magic")),
    (["sampler.steps=0"], ("sampler.steps", "got 0")),
    (["sampler.steps=2000"], ("sampler.steps", "2000")),
    (["student_seeds=[]"], ("student_seeds: expected at least one seed",)),
    (["student_seeds=3"], ("student_seeds: expected", "got 3")),
    (["source=pixie"], ("source: expected one of diffusion, random", "got 'pixie'")),
    (["reconstruct=true"], ("reconstruct: only real sources",)),
    (["student.depth=9"], ("student",)),
    (["machine.precision=8"], ("machine.precision: expected", "got 8")),
    (["machine.batch_size=0"], ("machine.batch_size: expected a whole number in [1, 65536], got 0",)),
    (["machine=gpu"], ("machine.accelerator: gpu asked for, but torch finds no GPU; set machine=cpu",)),
    (
        ["dataset.train_per_class=0"],
        ("dataset.train_per_class: expected a whole number in [1, 100000000] or null, got 0",),
    ),
    (["logger=wandb", "logger.mode=online"], ("logger.mode: online needs a W&B API key", "logger=none")),
    (["logger=wandb", "logger.mode=never"], ("logger.mode: expected one of",)),
    (["prior.path=./missing"], ("prior.path: folder ./missing does not exist", "manifoldgd prior")),
    (["prior.path=bundled:missing"], ("prior.path: no bundled prior 'bundled:missing'",)),
]


@pytest.mark.parametrize(("changes", "parts"), NUMBERS, ids=lambda each: " ".join(map(str, each))[:40])
def test_numbers_that_cannot_work(capsys, tiny_prior, tmp_path, changes, parts):
    import torch

    if changes == ["machine=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code = quick("run", tiny_prior, tmp_path / "cache", tmp_path / "out", *changes)
    holds(complaint(capsys, code), *parts)
    assert not (tmp_path / "out").exists()  # nothing was begun


def test_a_hub_prior_without_network(capsys, monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    code = quick("run", "facebook/DiT-XL-2-256", tmp_path / "cache", tmp_path / "out")
    holds(complaint(capsys, code), "prior.path: facebook/DiT-XL-2-256", "hf download", "HF_HOME")


def test_priors_for_other_data(capsys, tmp_path):
    other = write_tiny_prior(tmp_path / "few", class_names=("0", "1", "2"))
    holds(
        complaint(capsys, quick("run", other, tmp_path / "c", tmp_path / "o")),
        "dataset.prior_labels: 7 of 10 classes match no single class",
        "which has 3",
        "set it to a mapping",
    )
    colour = write_tiny_prior(tmp_path / "colour", image_channels=3)
    holds(
        complaint(capsys, quick("run", colour, tmp_path / "c", tmp_path / "o")),
        "takes images with 3 channels, dataset digits has 1",
        "manifoldgd prior",
    )


def folder_of_images(root, *, classes=("0", "1"), side=8):
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(i).integers(0, 256, (side, side), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def of_folder(command, prior, root, tmp_path, *changes):
    return manifoldgd(
        command,
        "dataset=image_folder",
        f"dataset.folder={root}",
        "dataset.channels=1",
        *(() if any(change.startswith("dataset.image_size") for change in changes) else ("dataset.image_size=8",)),
        f"prior.path={prior}",
        "prior.cfg_scale=null",
        "prior.cfg_channels=null",
        "guidance=none",
        "ipc=1",
        "machine.progress=false",
        f"cache={tmp_path / 'c'}",
        f"output={tmp_path / 'o'}",
        *changes,
    )


def test_images_larger_than_the_prior_takes(capsys, tmp_path):
    prior = write_tiny_prior(tmp_path / "p", class_names=("0", "1"))
    root = folder_of_images(tmp_path / "photos", side=16)
    code = of_folder("distill", prior, root, tmp_path, "dataset.image_size=16")
    assert code == 2
    *_, line = capsys.readouterr().err.splitlines()  # the images of both splits are the same here, which is said before
    holds(line, "at most 8x8", "16x16", "set dataset.image_size=8")


@pytest.mark.parametrize("what", ["empty class", "truncated", "no image", "one split only"])
def test_damaged_image_folders(capsys, tmp_path, what):
    root = folder_of_images(tmp_path / "photos")
    file = root / "train" / "1" / "2.png"
    if what == "empty class":
        shutil.rmtree(root / "train" / "1")
        (root / "train" / "1").mkdir()
        named = str(root / "train" / "1")
    elif what == "one split only":
        shutil.rmtree(root / "test" / "1")
        named = "'1'"
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if what == "truncated" else b"once upon a time")
        named = str(file)
    prior = write_tiny_prior(tmp_path / "p", class_names=("0", "1"))
    holds(complaint(capsys, of_folder("distill", prior, root, tmp_path)), named)


def test_a_corrupt_cache(capsys, tiny_prior, tmp_path):
    prior = load_prior(path=str(tiny_prior), autoencoder=None, cfg_scale=None, cfg_channels=None)
    found, _ = latents.encode(digits(train_per_class=None, validation=None), prior, cpu(), tmp_path / "cache")
    with (tmp_path / "cache" / "latents" / found.key / "latents.npy").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"oops")
    code = quick("distill", tiny_prior, tmp_path / "cache", tmp_path / "out")
    holds(complaint(capsys, code), "damaged cache", found.key, "remove the folder")


def test_an_output_that_holds_something_else(capsys, tiny_prior, tmp_path):
    claim_result(tmp_path / "out", "evaluation", {"dataset": {"x": 1}})
    code = quick("run", tiny_prior, tmp_path / "cache", tmp_path / "out")
    holds(complaint(capsys, code), "output: ", "holds another config's result (different: ", "choose another one")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code = quick("run", tiny_prior, tmp_path / "cache", tmp_path / "mine")
    holds(complaint(capsys, code), "is not empty and holds no result of ours")


def test_sets_of_other_data(capsys, tmp_path):
    from store_parts import write

    write(tmp_path / "set")
    code = quick("evaluate", None, tmp_path / "c", tmp_path / "o", f"set={tmp_path / 'set'}")
    holds(complaint(capsys, code), "set: ", "'cat'", "choose the dataset that the set was made from")


def test_usage_version_and_nothing(capsys):
    assert manifoldgd() == 2
    assert manifoldgd("--help") == 0
    assert manifoldgd("--version") == 0
    out = capsys.readouterr().out
    assert out.count("usage: manifoldgd COMMAND") == 2
    assert out.splitlines()[-1] == __version__


@pytest.mark.parametrize("command", ["run", "distill", "evaluate", "prior", "dashboard"])
def test_help_says_what_the_command_uses_and_nothing_else(capsys, command):
    from manifoldgd.cli.used import USED_KEYS

    assert manifoldgd(command, "--help") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"manifoldgd {command}: ")
    keys = {found[1] for found in re.finditer(r"^ *([a-z][\w.]*) = ", out, re.MULTILINE)}
    assert {key.partition(".")[0] for key in keys} <= USED_KEYS[command]
    assert ("guidance.scale" in keys) == (command in ("run", "distill"))
    assert ("student.width" in keys) == (command in ("run", "evaluate"))


def test_help_takes_a_key_s_meaning_from_where_a_choice_has_it(capsys):
    for choice, key, meaning in (
        ("parquet", "flip", "whether a mirrored image keeps its class"),
        ("parquet", "image_size", "DiT-XL/2-256 was trained on 256"),
        ("cifar10", "flip", "whether a mirrored image keeps its class"),
        ("svhn", "flip", "a mirrored digit is none"),
        ("imagenet_a", "test", "subfolder of the test split"),
    ):
        assert manifoldgd("distill", f"dataset={choice}", "--help") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert meaning in said.partition(f"dataset.{key} = ")[2].partition(" dataset.")[0]


def test_help_shows_values_meanings_and_keys_of_the_chosen_members(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert manifoldgd("run", "guidance=dap", "dataset=image_folder", "ipc=7,8", "--multirun", "--help") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    text = "\n".join(lines)
    holds(text, "[dap]", "dataset.folder = ??? holds the subfolders of both splits", "\nipc = 7 [1, 1000000]; images")
    # from the file itself, and from those that it is made of
    holds(text, "guidance.then.rate = 0.003 length of an Adam step", "guidance.then.space.layer = 0.5 share of")
    assert "tangent_dim" not in text


def test_every_key_that_help_shows_has_a_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("run", "evaluate"):
        assert manifoldgd(command, "--help") == 0
        said = capsys.readouterr().out
        # of the members chosen inside others, not of their neighbours
        holds(" ".join(said.split()), "rate = 0.01 (0, 10]; of SGD at the start (DC)", "any of these; drop flip where")
        entries = re.findall(r"^( *[a-z][\w.]* = .*)(\n {40}\S)?", said, re.MULTILINE)
        assert len(entries) > 20
        # the meaning stands in the second column, or on the next line where a value is long
        assert [line for line, below in entries if not below and not line[39:].strip()] == []


def test_cfg_job_prints_the_configuration(capsys):
    assert manifoldgd("run", "--cfg", "job", "ipc=7") == 0
    out, err = capsys.readouterr()
    assert err == ""
    holds(out, "ipc: 7", "_target_: manifoldgd.guidance.ManifoldGuidance")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_that_work_continues(number, capsys, monkeypatch, tiny_prior, tmp_path):
    monkeypatch.setattr(commands, "run", lambda setup: signal.raise_signal(number))
    assert quick("run", tiny_prior, tmp_path / "c", tmp_path / "o") == 128 + number
    said = f"stopped by {number.name}; what is finished is kept, and the same command continues from there"
    assert capsys.readouterr().err == f"manifoldgd: {said}\n"


def test_a_signal_that_a_library_takes_for_its_own_failure_still_stops(capsys, monkeypatch, tiny_prior, tmp_path):
    def wrapped(setup):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise UserError("prior.path: could not be loaded") from error

    monkeypatch.setattr(commands, "run", wrapped)
    assert quick("run", tiny_prior, tmp_path / "c", tmp_path / "o") == 143
    assert capsys.readouterr().err.startswith("manifoldgd: stopped by SIGTERM")


def test_results_are_named_by_what_they_are(tiny_prior, tmp_path):
    """Without ``output`` the folder's name depends on all that the set depends on, and on nothing else."""
    names = []
    for changes in ([], ["machine.batch_size=3"], ["seed=1"], ["sampler.steps=4"]):
        code = quick("distill", tiny_prior, tmp_path / "c", None, "guidance=none", *changes)
        assert code == 0
        names.append({folder.name for folder in (tmp_path / "outputs" / "digits").iterdir()})
    assert [len(each) for each in names] == [1, 1, 2, 3]
    (first,) = names[0]
    assert first.startswith("none-ipc1-")
    manifest = json.loads((tmp_path / "outputs" / "digits" / first / "set" / "manifest.json").read_text())
    assert manifest["method"] == "none"
    assert "student" not in manifest["config"]


def test_a_reader_that_stops_early_gets_no_traceback():
    command = f"{shlex.quote(sys.executable)} -u -m manifoldgd run --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
