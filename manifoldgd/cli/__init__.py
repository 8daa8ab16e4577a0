"""The command line: the only package that knows Hydra and configuration objects."""

from manifoldgd.cli.main import main

__all__ = ["main"]
