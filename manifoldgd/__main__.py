"""``python -m manifoldgd`` is the command ``manifoldgd``."""

import sys

from manifoldgd.stopping import Stopped, listening


def main() -> None:
    """The command, which a signal ends with one line from the first import on."""
    with listening():
        try:
            from manifoldgd.cli import main as command  # the imports take half a second

            command()
        except Stopped as stop:
            print(f"manifoldgd: {stop}", file=sys.stderr)
            sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
