"""``python -m manifoldgd`` is the command ``manifoldgd``."""

from manifoldgd.cli import main

main()
