"""Pages and tables as text: Markdown and LaTeX for papers, aligned columns for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from manifoldgd.report.content import Figure, Notes, Page, Table


def markdown(page: Page) -> str:
    """The page as a Markdown document, without its pictures, its lists of links and its configuration."""
    parts = [f"# {markdown_line(page.title)}", markdown_line(page.subtitle)]
    parts += [f"**{markdown_line(notice)}**" for notice in page.notices]
    parts += [f"- {markdown_line(f'{label}: {value} ({note})')}" for label, value, note in page.key_figures]
    for section in page.sections:
        said: list[str] = []
        for block in () if section.links else section.blocks:
            if isinstance(block, Notes):
                said.append("\n".join(f"- {markdown_line(line)}" for line in block.lines))
            elif isinstance(block, Table):
                said.append(table_markdown(block))
            elif not isinstance(block, Figure):
                said.append(markdown_line(block))
        parts += [f"## {markdown_line(section.title)}", *said] if said else []
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def table_markdown(table: Table) -> str:
    """A pipe table, best in bold; what its ``±`` means stands below."""
    titles = [markdown_line(column.title) for column in table.columns]
    rules = ["---" if column.kind == "setting" else "---:" for column in table.columns]
    body = [f"| {' | '.join(row)} |" for row in (titles, rules, *_written(table, markdown_line, best="**{}**"))]
    said = [[markdown_line(table.caption)], body, [markdown_line(table.plus_minus)]]
    return "\n\n".join("\n".join(lines) for lines in said if any(lines)) + "\n"


def terminal(page: Page) -> str:
    """What is not folded, without pictures, best marked ``*``; of folded sections their notes."""
    parts = [page.title, *(f"!! {notice}" for notice in page.notices)]
    for section in page.sections:
        said: list[str] = []
        for block in section.blocks:
            if isinstance(block, Notes):
                said += [f"- {one_line(line)}" for line in block.lines]
            elif not section.folded and not isinstance(block, Figure):
                said.append(table_text(block).rstrip("\n") if isinstance(block, Table) else one_line(block))
        parts += ["", section.title, *said] if said else []
    return "\n".join(parts) + "\n"


def table_text(table: Table) -> str:
    """Aligned columns, best marked ``*``."""
    titles = [f"{one_line(column.title)} " for column in table.columns]
    rows = _written(table, one_line, best="{}*", other="{} ")
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if column.kind == "setting" else cell.rjust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in (titles, *rows)
    ]
    aligned.insert(1, "  ".join("-" * width for width in widths))
    said = [table.caption, *aligned, "* best of its column" if table.best_cells() else "", table.plus_minus]
    return "\n".join(filter(None, said)) + "\n"


def latex(page: Page, label: str) -> str:
    """The tables that are not folded, each floating, with everything that must be said of them; needs booktabs.

    Args:
        page: what to print.
        label: of the first table, ``tab:<label>``; the others add their number.
    """
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in label)
    title = page.title if page.title.endswith((".", "?", "!")) else f"{page.title}."
    blocks = [(section, block) for section in page.sections for block in section.blocks]
    small = [line for _, block in blocks if isinstance(block, Notes) for line in block.lines]
    shown = [(section, block) for section, block in blocks if isinstance(block, Table) and not section.folded]
    lines = ["% needs \\usepackage{booktabs}"]
    for number, (section, table) in enumerate(shown):
        said = [f"{sentence}." for sentence in (section.title, table.caption, table.plus_minus) if sentence]
        said = [*page.notices, title, *said, *small] if number == 0 else said
        lines += [
            "\\begin{table}",
            "\\centering",
            table_latex(table).rstrip("\n"),
            f"\\caption{{{' '.join(map(latex_line, said))}}}",
            f"\\label{{tab:{name}{f'-{number + 1}' if number else ''}}}",
            "\\end{table}",
        ]
    return "\n".join(lines) + "\n"


def table_latex(table: Table) -> str:
    """A ``tabular`` in booktabs style, best in bold."""
    alignment = "".join("l" if column.kind == "setting" else "r" for column in table.columns)
    titles = (latex_line(column.title) for column in table.columns)
    rows = _written(table, latex_line, best=r"\textbf{{{}}}")
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _latex_row(titles), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _written(table: Table, write: Callable[[str], str], *, best: str, other: str = "{}") -> list[list[str]]:
    """Every cell as a format writes it, those that are best of their column in another form."""
    marked = table.best_cells()
    return [
        [(best if (i, j) in marked else other).format(write(text)) for j, text in enumerate(row)]
        for i, row in enumerate(table.texts())
    ]


def one_line(text: str) -> str:
    """``text`` without line breaks and signs that nobody sees."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown_line(text: str) -> str:
    """``text`` on one line, so that Markdown prints it as it stands."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "–": "--",
    "×": r"$\times$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "[": "{[}",  # after the end of a line a bare one would begin an option
    # Without a modern font encoding these three come out as other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def latex_line(text: str) -> str:
    """``text`` on one line, so that LaTeX prints it as it stands."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))
