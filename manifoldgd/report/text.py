"""Pages and tables as text: Markdown and LaTeX for papers, CSV for programs, aligned columns for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from manifoldgd.report.content import Block, Column, Figure, Notes, Page, Table


def markdown(page: Page) -> str:
    """The page as a Markdown document, without its pictures, its lists of links and its configuration."""
    parts = [f"# {markdown_line(page.title)}", markdown_line(page.subtitle)]
    parts += [f"**{markdown_line(notice)}**" for notice in page.notices]
    parts += [f"- {markdown_line(f'{label}: {value} ({note})')}" for label, value, note in page.key_figures]
    for section in page.sections:
        shown = [block for block in section.blocks if not (section.links or isinstance(block, Figure))]
        said = [_markdown_block(block) for block in shown]
        parts += [f"## {markdown_line(section.title)}", *said] if said else []
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Notes):
        return "\n".join(f"- {markdown_line(line)}" for line in block.lines)
    return table_markdown(block) if isinstance(block, Table) else markdown_line(str(block))


def table_markdown(table: Table) -> str:
    """A pipe table, best in bold; what its ``±`` means stands below."""
    best, texts = table.best_cells(), table.texts()
    lines = [
        [markdown_line(column.title) for column in table.columns],
        ["---" if column.kind == "setting" else "---:" for column in table.columns],
    ]
    for i, row in enumerate(texts):
        lines.append(
            [f"**{markdown_line(text)}**" if (i, j) in best else markdown_line(text) for j, text in enumerate(row)]
        )
    body = "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
    head = f"{markdown_line(table.caption)}\n\n" if table.caption else ""
    return head + body + (f"\n{markdown_line(table.plus_minus)}\n" if table.plus_minus else "")


def terminal(page: Page) -> str:
    """What is not folded, without pictures, best marked ``*``; of folded sections their notes."""
    parts = [page.title, *(f"!! {notice}" for notice in page.notices)]
    for section in page.sections:
        shown = [block for block in section.blocks if isinstance(block, Notes) or not section.folded]
        said = [text for text in map(_terminal_block, shown) if text]
        parts += ["", section.title, *said] if said else []
    return "\n".join(parts) + "\n"


def _terminal_block(block: Block) -> str:
    if isinstance(block, Notes):
        return "\n".join(f"- {one_line(line)}" for line in block.lines)
    if isinstance(block, Table):
        return table_text(block).rstrip("\n")
    return "" if isinstance(block, Figure) else one_line(block)


def table_text(table: Table) -> str:
    """Aligned columns, best marked ``*``."""
    best, texts = table.best_cells(), table.texts()
    marked = [
        [one_line(text) + ("*" if (i, j) in best else " ") for j, text in enumerate(row)] for i, row in enumerate(texts)
    ]
    titles = [one_line(column.title) + " " for column in table.columns]
    widths = [max(len(row[j]) for row in [titles, *marked]) for j in range(len(titles))]
    lines = [table.caption] if table.caption else []
    lines += [_aligned(titles, widths, table.columns), "  ".join("-" * width for width in widths)]
    lines += [_aligned(row, widths, table.columns) for row in marked]
    lines += list(filter(None, ["* best of its column" if best else "", table.plus_minus]))
    return "\n".join(lines) + "\n"


def _aligned(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = (
        cell.ljust(width) if column.kind == "setting" else cell.rjust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    )
    return "  ".join(padded).rstrip()


def latex(page: Page, label: str) -> str:
    """The tables that are not folded, each floating, with everything that must be said of them; needs booktabs.

    Args:
        page: what to print.
        label: of the first table, ``tab:<label>``; the others add their number.
    """
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in label)
    title = page.title if page.title.endswith((".", "?", "!")) else f"{page.title}."
    small = [line for section in page.sections for block in section.blocks if isinstance(block, Notes)
             for line in block.lines]  # fmt: skip
    lines = ["% needs \\usepackage{booktabs}"]
    for number, (heading, table) in enumerate(_open_tables(page)):
        said = [f"{sentence}." for sentence in (heading, table.caption, table.plus_minus) if sentence]
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


def _open_tables(page: Page) -> Iterator[tuple[str, Table]]:
    for section in page.sections:
        if not section.folded:
            yield from ((section.title, block) for block in section.blocks if isinstance(block, Table))


def table_latex(table: Table) -> str:
    """A ``tabular`` in booktabs style, best in bold."""
    best, texts = table.best_cells(), table.texts()
    alignment = "".join("l" if column.kind == "setting" else "r" for column in table.columns)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    lines += [" & ".join(latex_line(column.title) for column in table.columns) + r" \\", r"\midrule"]
    for i, row in enumerate(texts):
        cells = [
            rf"\textbf{{{latex_line(text)}}}" if (i, j) in best else latex_line(text) for j, text in enumerate(row)
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


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
