"""Where tables lie: ``experiments/<name>/table.yaml`` under the current folder, else in the checkout."""

from __future__ import annotations

import difflib
from pathlib import Path

from manifoldgd.errors import UserError, require

FILE = "table.yaml"
RECORD = "results.json"  # the recorded result, beside table.yaml


def find_table(name: str) -> Path:
    """The ``table.yaml`` of a table's name, of its folder, or the file itself.

    Raises:
        UserError: there is none; lists the tables that there are.
    """
    for folder in _homes():
        if "/" not in name and (folder / name / FILE).is_file():
            return folder / name / FILE
    path = Path(name).expanduser()
    if path.is_dir():
        require((path / FILE).is_file(), f"table: {path} has no {FILE}; choose a folder that has one")
        return path / FILE
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    known = list(known_tables())
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "choose one of them, or give the path of a table.yaml"
    raise UserError(f"table: no table {name!r}; there are {', '.join(known) or 'none'}; {hint}")


def known_tables() -> dict[str, Path]:
    """``table.yaml`` by name of the table, in alphabetical order."""
    found = {file.parent.name: file for folder in reversed(_homes()) for file in folder.glob(f"*/{FILE}")}
    return dict(sorted(found.items()))


def table_name(file: Path) -> str:
    """What a table is called: its folder's name, or that of a file called otherwise."""
    return file.resolve().parent.name if file.name == FILE else file.stem


def _homes() -> list[Path]:
    """Nearest first."""
    return [Path("experiments"), Path(__file__).parents[2] / "experiments"]
