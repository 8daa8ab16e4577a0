"""Tab completion answers from the configuration files, without loading torch."""

import os
import subprocess
import sys

import pytest

from manifoldgd.cli.main import COMMANDS, _complete

HEAVY = {"torch", "diffusers", "lightning", "wandb", "sklearn", "matplotlib"}


def complete(line):
    code = (
        "import sys\nfrom manifoldgd.cli.main import run\ncode = run(['-sc', 'query=bash'])\n"
        f"print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr.strip()


def test_choices_of_a_group_without_torch():
    words, heavy = complete("manifoldgd run guidance=")
    assert {"guidance=manifold", "guidance=mode", "guidance=none", "guidance=manifold_released"} <= set(words)
    assert heavy == ""


def test_keys_inside_a_group():
    words, _ = complete("manifoldgd run guidance=mode guidance.sc")
    assert "guidance.scale=" in words


def test_commands(capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "manifoldgd ")
    assert _complete(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == list(COMMANDS)
    monkeypatch.setenv("COMP_LINE", "manifoldgd ev")
    _complete(["-sc", "query=bash"])
    assert capsys.readouterr().out.split() == ["evaluate"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_scripts(shell, capsys, monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    from command import manifoldgd

    assert manifoldgd("-sc", f"install={shell}") == 0
    assert "manifoldgd" in capsys.readouterr().out
