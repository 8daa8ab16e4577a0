"""Imports point one way, and the scientific core needs neither Lightning, Hydra nor W&B."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "manifoldgd"
CORE = ("geometry", "diffusion", "guidance", "prototypes", "metrics")
# Modules at the top of the package that are no part of a layer's folder are listed by their own names.
LAYERS = {
    0: {
        "archives",
        "artifacts",
        "randomness",
        "errors",
        "estimates",
        "files",
        "finite",
        "hub",
        "machine",
        "memory",
        "philox",
        "dataset",
        "progress",
        "provenance",
        "ranges",
        "ranks",
        "stopping",
        "system",
    },
    1: {"geometry", "prototypes", "diffusion", "metrics"},
    1.5: {"guidance"},
    2: {"data", "priors", "latents", "distill", "students", "set_guidance", "store", "embeddings"},
    3: {"bench", "export", "report", "pipeline", "study"},
    4: {"tracking", "cli", "library", "__main__", "__init__"},
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
# Layers whose members may import one another, besides the pairs below.
OPEN_LAYERS = {0, 3, 4}
ALLOWED_PAIRS = {
    ("latents", "priors"),
    ("distill", "priors"),
    ("set_guidance", "students"),
    ("priors", "store"),
    ("store", "data"),
    ("store", "students"),
    ("embeddings", "students"),
}
CORE_MAY_IMPORT = {
    "torch",
    "numpy",
    "faiss",
    "sklearn",
    "scipy",
    "manifoldgd",
    "torchmetrics",
} | sys.stdlib_module_names
# One owner each: nobody else imports these.
OWNERS = {
    **{name: {"tracking"} for name in ("wandb", "wandb_workspaces", "tensorboard")},
    "hydra": {"cli"},
    "torchvision": set(),
}

FILES = sorted(ROOT.rglob("*.py"))


def part_of(file):
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file):
    """Dotted names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "manifoldgd":
                yield from (f"manifoldgd.{alias.name}" for alias in node.names)
            else:
                yield node.module


def may_import(importer, imported):
    high, low = LAYER_OF[importer], LAYER_OF[imported]
    if importer == imported or low < high:
        return True
    return low == high and (high in OPEN_LAYERS or (importer, imported) in ALLOWED_PAIRS)


def test_every_module_has_a_layer():
    assert {part_of(file) for file in FILES} - set(LAYER_OF) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    importer = part_of(file)
    for name in imports(file):
        top, *rest = name.split(".")
        if top == "manifoldgd" and rest and rest[0] in LAYER_OF:
            assert may_import(importer, rest[0]), f"{importer} (layer {LAYER_OF[importer]}) imports {name}"
        if importer in CORE:
            assert top in CORE_MAY_IMPORT, f"{importer} imports {name}"
        if top in OWNERS:
            assert importer in OWNERS[top], f"{importer} imports {name}"


def test_guidance_takes_only_the_protocol_from_diffusion():
    for file in sorted((ROOT / "guidance").glob("*.py")):
        taken = {name for name in imports(file) if name.startswith("manifoldgd.diffusion")}
        assert taken <= {"manifoldgd.diffusion.protocol"}, file


def test_layer_rules_refuse_what_they_should():
    assert not may_import("geometry", "diffusion")
    assert not may_import("geometry", "guidance")
    assert not may_import("students", "data")
    assert not may_import("priors", "latents")
    assert may_import("latents", "priors")
    assert may_import("cli", "artifacts")


def test_core_loads_without_lightning_hydra_and_wandb():
    modules = [
        ".".join(("manifoldgd", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if part_of(file) in CORE
    ]
    heavy = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "diffusers", "torchvision"}
    code = (
        f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\nprint(*({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_what_only_checks_loads_nothing_that_takes_seconds():
    """A wrong key loads no torch; what a run or a table builds before it works loads no trainer and draws nothing."""
    slow = {"lightning", "diffusers", "transformers", "torchmetrics", "faiss", "wandb"}
    slow |= {"pandas", "sklearn", "scipy", "matplotlib"}
    code = f"""
import sys
from manifoldgd.cli.main import run
for wrong in (["run", "ipc=x"], ["run", "set=there"], ["table", "nothing=1"]):
    assert run(wrong) == 2
assert "torch" not in sys.modules
import manifoldgd.cli.commands, manifoldgd.cli.study
from manifoldgd.cli.components import build
from manifoldgd.cli.compose import compose
config = compose(["guidance=mode"]).values
for group in ("machine", "sampler", "guidance", "clusterer", "student", "logger", "start"):
    build(config, group)
print(*({slow} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
