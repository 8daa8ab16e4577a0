"""``manifoldgd table``: its command line, its own keys and overrides for every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from hydra.core.override_parser.types import Override, OverrideType, Sweep
from omegaconf import OmegaConf

from manifoldgd.cli.arguments import parse, read_arguments
from manifoldgd.cli.compose import conf_dir
from manifoldgd.cli.explain import suggest
from manifoldgd.cli.help import plain_keys
from manifoldgd.cli.launcher import Launching
from manifoldgd.cli.targets import allowing
from manifoldgd.errors import require
from manifoldgd.ranges import Range, Seed, check
from manifoldgd.study.definition import RUN_KEYS, check_reserved, known_tables, read_definition

# Keys that change no number of the table. A machine as a whole, and its precisions, do.
NEUTRAL = (
    *(f"machine.{name}" for name in ("accelerator", "batch_size", "threads", "progress")),
    *("logger", "cache", "measures", "dataset.folder", "dataset.download", "hydra.searchpath"),
)
LAUNCHER_KEYS = "hydra"
SEARCH = "hydra.searchpath"
OPTIONS = ("--help", "--cfg", "--config-dir")  # of Hydra's, that make sense for many cells
FLAGS = {f"--{name.replace('_', '-')}": f"{name}=true" for name in ("dry_run", "pages", "record", "extend", "scores")}
HEAD = """manifoldgd table: measure a table of methods by columns, cell by cell

usage: manifoldgd table table=NAME [key=value ...] [--dry-run]

A table is a file experiments/NAME/table.yaml. Each cell is one `manifoldgd run` in a process of its own. Finished cells
are skipped, so the same command continues after a kill. Columns that differ in the student only share their sets.

Keys of the table:"""
FOOT = """
Options:
  --config-dir FOLDER       choices of your own, as hydra.searchpath=[file:///FOLDER]; also -cd
  --cfg job                 print the configuration of every row (job, hydra, all); also -c
  allow_targets=[NAME]      a class of your own that cells may build, such as my_package.MyGuidance; never in table.yaml

Any other key=value goes to every cell, after the table's own; `manifoldgd run --help` lists them.

Examples:
  manifoldgd table table=digits
  manifoldgd table table=fashion_mnist columns=[ipc10-convnet3] seeds=[0] jobs=2
  manifoldgd table table=imagenette machine=gpu jobs=1 dataset.folder=/data/imagenette --dry-run"""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What was asked for: the keys of ``conf/table.yaml``, and what goes to the cells."""

    table: str | None
    jobs: Annotated[int, Range("[1, 1024]")] | None
    output: str | None
    seeds: list[Seed] | None
    student_seeds: list[Seed] | None
    methods: list[str] | None
    columns: list[str] | None
    sets_from: list[str] | None
    dry_run: bool
    record: bool
    pages: bool
    extend: bool
    scores: bool
    launcher: str | None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of every cell
    launcher_overrides: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()  # what cells may build beside what is registered
    shown: str | None = None  # what is to be printed of every row: job, hydra or all

    def __post_init__(self) -> None:
        for folder in self.sets_from or ():
            require(
                (Path(folder).expanduser() / "sets").is_dir(),
                f"sets_from: expected folders that `manifoldgd table` wrote, got {folder}, which has no folder sets/; "
                "give the output= of the other table",
            )
        check_reserved("overrides: ", self.overrides)
        foreign = [key for key in self.overrides if not key.startswith(NEUTRAL)]
        require(
            not (self.record and foreign),
            f"record: {', '.join(foreign)} on the command line makes this another table than table.yaml; "
            "put it there, or leave out record=true",
        )
        require(
            self.launcher is not None or not self.launcher_overrides,
            f"{''.join(self.launcher_overrides[:1])}: acts with launcher=NAME only; choose a launcher",
        )

    @property
    def launching(self) -> Launching:
        """How the cells are to be run."""
        return Launching(self.jobs, self.launcher, self.launcher_overrides)


def read_options(arguments: Sequence[str]) -> TableOptions:
    """Parse and check a command line.

    Raises:
        UserError: a key is unknown, or a value is of another type.
    """
    given = read_arguments([FLAGS.get(each, each) for each in arguments])
    for option, _ in given.options:
        require(option in OPTIONS, f"{option}: is no option of a table; `manifoldgd table --help` lists them")
    own: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "table.yaml"))
    overrides: dict[str, Any] = {}
    launcher: list[str] = []
    hints = get_type_hints(TableOptions, include_extras=True)
    if folder := given.value("--config-dir"):
        require(Path(folder).is_dir(), f"--config-dir: no folder {folder}; correct it")
    for text, each in zip(given.searching, parse(given.searching), strict=True):
        key, value = each.key_or_group, each.value()
        plain = each.type is OverrideType.CHANGE and each.package is None
        require(plain, f"{text}: expected key=value; a table takes no +key, ~key or key@package")
        top = key.replace("/", ".").split(".")[0]
        if key in own:
            own[key] = _own_value(each, hints[key])
        elif key == SEARCH:
            check(key, value, list[str])
            overrides[key] = [*overrides.get(key, []), *cast(list[str], value)]
        elif top == LAUNCHER_KEYS:
            launcher.append(text)
        else:
            require(top in RUN_KEYS, f"unknown key {key!r}{suggest(key, [*own, *RUN_KEYS])}")
            require(
                not each.is_sweep_override(),
                f"{text}: a table takes one value for every cell; methods or columns of table.yaml vary",
            )
            overrides[key] = value
    return TableOptions(
        **own,
        overrides=overrides,
        launcher_overrides=tuple(launcher),
        allowed=given.allowed,
        shown=given.value("--cfg"),
    )


def _own_value(override: Override, hint: Any) -> Any:
    """A value of the table's own; ``a,b`` and a single value stand for a list where one is expected."""
    value: Any = override.value()
    listed = hint in (list[Seed] | None, list[str] | None)
    if isinstance(value, Sweep):
        choices = [getattr(each, "text", each) for each in getattr(value, "list", [])]
        value = choices if listed else f"{override.input_line}"
    elif listed and value is not None and not isinstance(value, list):
        value = [value]
    if hint == list[str] | None and value is not None:
        value = [str(each) for each in value]
    check(override.key_or_group, value, hint)
    return value


def run_table(arguments: Sequence[str]) -> int:
    """The command; returns the exit code.

    Raises:
        UserError: bad input, found before any cell runs.
        OSError: the disk filled up; finished cells are kept.
    """
    if {"-h", "--help"} & set(arguments):
        print(HEAD, *plain_keys(conf_dir(), "table"), FOOT, sep="\n")
        return 0
    options = read_options(arguments)
    if options.table is None:
        lines = [f"  {name:24} {read_definition(file).title}" for name, file in known_tables().items()]
        print("\n".join(["tables (manifoldgd table table=NAME):", *lines]))
        return 0
    from manifoldgd.cli.study import Study  # here, because it imports torch

    with allowing(options.allowed):
        study = Study(options)
        if options.shown is not None:
            return study.show(options.shown)
        if options.dry_run:
            return study.dry_run()
        if options.pages:
            return study.write_pages_of_record()
        return study.run()
