"""``manifoldgd table``: check every cell, run what is left, write the pages, list what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifoldgd.cli.table_options import HELP, TableOptions, read_options
from manifoldgd.cli.targets import allowing
from manifoldgd.study.definition import read_definition
from manifoldgd.study.finding import known_tables


def run_table(arguments: Sequence[str], conf: Path) -> int:
    """The command; returns the exit code.

    Raises:
        UserError: bad input, found before any cell runs.
        OSError: the disk filled up; finished cells are kept.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    options = read_options(arguments)
    with allowing(options.allowed):
        return _run(options, conf)


def _run(options: TableOptions, conf: Path) -> int:
    if options.table is None:
        lines = [f"  {name:24} {read_definition(file).title}" for name, file in known_tables().items()]
        print("\n".join(["tables (manifoldgd table table=NAME):", *lines]))
        return 0
    from manifoldgd.cli.table_work import TableWork  # here, because it imports torch

    work = TableWork(options, conf)
    if options.shown is not None:
        return work.show(options.shown)
    if options.dry_run:
        return work.dry_run()
    if options.pages:
        return work.write_pages_of_record()
    return work.run()
