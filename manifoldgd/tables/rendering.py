"""The pages of a table. PLACEHOLDER: to be replaced at the merge by the module that renders CSV, figures and report."""

from __future__ import annotations

from pathlib import Path

from manifoldgd.files import atomic_write_text
from manifoldgd.tables.results import TableResult


def write_table(folder: Path, result: TableResult) -> str:
    """Write ``table.md`` into ``folder`` and return it for the terminal: mean last-epoch accuracy of each cell."""
    lines = [f"| method | {' | '.join(column.key for column in result.columns)} |"]
    lines.append("|---" * (len(result.columns) + 1) + "|")
    for method in result.methods:
        cells = []
        for column in result.columns:
            values = [value for one in result.of(method, column.key) for value in one.last]
            cells.append(f"{100 * sum(values) / len(values):.1f} ({len(values)})" if values else "—")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    atomic_write_text(folder / "table.md", text + "\n")
    return text
