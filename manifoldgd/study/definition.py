"""A table as data: ``experiments/<name>/table.yaml`` under the current folder, else our own; read and checked.

Rows are methods, columns are a dataset, a number of images a class and a student. Both are given as overrides of
``manifoldgd run``, so a table can vary whatever a run can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from manifoldgd.errors import UserError, nearest, require
from manifoldgd.ranges import Million, Seed, check

if TYPE_CHECKING:  # the command line reads this module, and answers without torch
    from manifoldgd.students.protocol import LabelProtocol

Kind = TypeVar("Kind")
Overrides = Mapping[str, Any]  # key of `manifoldgd run` -> value

# What a column and the seeds decide; anywhere else it would make cells of one column differ.
COLUMN_KEYS = ("dataset", "ipc", "student")
SEED_KEYS = ("seed", "student_seeds")
RESERVED = (*COLUMN_KEYS, *SEED_KEYS, "output", "set")
# Keys of `manifoldgd run` that cells may be given, and the groups among them, whose values are names. Nothing else: a
# table may come from elsewhere, and Hydra's own keys can start programs.
GROUPS = (
    "dataset",
    "prior",
    "clusterer",
    "guidance",
    "sampler",
    "student",
    "embedding",
    "machine",
    "logger",
    "experiment",
)
RUN_KEYS = (*GROUPS, "start", "overgeneration", "source", "reconstruct", "cache", "measures", "ipc", "seed", "set")
KEY_NAME = re.compile(r"[A-Za-z_]\w*([./]\w+)*(@[\w.]+)?")
CHOICE_NAME = re.compile(r"\w[\w.-]*")
INTERPOLATION = re.compile(r"\$\{\.*\w+(\.\w+)*\}")  # of another key; those that call a resolver can read the machine
FILE = "table.yaml"
FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class ColumnDefinition:
    """Where methods are compared."""

    key: str  # short and unique; part of folder names
    dataset: str  # a choice of conf/dataset
    ipc: Million  # images a class
    student: str  # a choice of conf/student
    overrides: Overrides = field(default_factory=dict)
    student_seeds: tuple[Seed, ...] | None = None  # None: those of the table; fewer where students take long

    @property
    def choices(self) -> Overrides:
        """Everything the column sets."""
        return {"dataset": self.dataset, "ipc": self.ipc, "student": self.student, **self.overrides}


@dataclass(frozen=True, kw_only=True)
class TableDefinition:
    """What ``table.yaml`` says."""

    title: str
    question: str
    methods: Mapping[str, Overrides]  # rows, in order
    columns: tuple[ColumnDefinition, ...]
    seeds: tuple[Seed, ...]  # distillation seeds
    student_seeds: tuple[Seed, ...]
    baseline: str  # the method that the others are compared with, on the same seeds
    number_family: str  # of the published numbers that may stand beside these
    overrides: Overrides = field(default_factory=dict)  # of every cell
    split: Literal["test", "validation"] = "test"  # which images judge; a validation split is cut from the training one
    published_as: Mapping[str, str] = field(default_factory=dict)  # method -> name in published_results.csv
    notes: tuple[str, ...] = ()

    @property
    def students(self) -> Mapping[str, tuple[int, ...]]:
        """The student seeds of each column, by its key."""
        return {column.key: column.student_seeds or self.student_seeds for column in self.columns}

    def chosen(
        self,
        *,
        methods: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        student_seeds: Sequence[int] | None = None,
    ) -> TableDefinition:
        """The part of the table that was asked for; ``None`` takes all, or the seeds of the file.

        ``student_seeds`` are those of every column, also of those that have their own in the file.

        Raises:
            UserError: a method or column is not in the table, or a seed list is empty or has duplicates.
        """
        _check_choice("methods", methods, self.methods)
        _check_choice("columns", columns, [column.key for column in self.columns])
        changed = replace(
            self,
            methods={name: each for name, each in self.methods.items() if methods is None or name in methods},
            columns=tuple(
                each if student_seeds is None else replace(each, student_seeds=None)
                for each in self.columns
                if columns is None or each.key in columns
            ),
            seeds=self.seeds if seeds is None else tuple(seeds),
            student_seeds=self.student_seeds if student_seeds is None else tuple(student_seeds),
        )
        _check_seeds("seeds", changed.seeds)
        _check_seeds("student_seeds", changed.student_seeds)
        return changed


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
    known = known_tables()
    hint = nearest(name, known, otherwise="choose one of them, or give the path of a table.yaml")
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
    package = Path(__file__).parents[1]  # in a wheel they lie inside it, in a checkout beside it
    return [Path("experiments"), package / "experiments", package.parent / "experiments"]


def read_definition(file: Path) -> TableDefinition:
    """Read and check a table.

    Raises:
        UserError: the file cannot be read, a key is unknown or missing, or a value is out of range; names the key.
    """
    try:
        held = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: is no readable table ({reason}); correct the file") from error
    where = f"{file}: "
    if isinstance(held, dict) and "columns" in held:
        listed = held["columns"]
        at_least = f"{where}columns: expected at least one, got {listed}; add one"
        require(isinstance(listed, list) and bool(listed), at_least)
        held["columns"] = [_column(f"{where}columns: ", each) for each in listed]
    table = _read(where, held, TableDefinition)
    _check_table(where, table)
    return table


def _column(where: str, held: Any) -> ColumnDefinition:
    where = f"{where}{held.get('key', '?') if isinstance(held, dict) else '?'}: "
    column = _read(where, held, ColumnDefinition)
    _check_name(f"{where}key", column.key)
    for name in ("dataset", "student"):
        _check_choices(f"{where}{name}", getattr(column, name))
    if column.student_seeds is not None:
        _check_seeds(f"{where}student_seeds", column.student_seeds)
    return column


def _read(where: str, held: Any, kind: type[Kind]) -> Kind:
    """A dataclass as a file says it: no key unknown, none missing, every value as the field's annotation has it."""
    require(isinstance(held, dict), f"{where}expected keys and values, got {held!r}; see another table.yaml")
    known = {each.name: each for each in fields(cast(Any, kind))}
    for key in held:
        hint = nearest(str(key), known, otherwise=f"expected {', '.join(known)}")
        require(key in known, f"{where}unknown key {str(key)!r}; {hint}")
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        require(name in held or not needed, f"{where}{name}: expected a value, got none; add it")
    hints, values = get_type_hints(kind, include_extras=True), {}
    for name, value in held.items():
        if isinstance(value, dict):  # of overrides, by method or at once; a method without any may be left empty
            value = {str(key): {} if each is None and name == "methods" else each for key, each in value.items()}
        elif value is None and name == "overrides":
            value = {}
        check(f"{where}{name}", value, hints[name])
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check_table(where: str, table: TableDefinition) -> None:
    require(bool(table.methods), f"{where}methods: expected at least one, got none; add one")
    keys = [column.key for column in table.columns]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    require(not twice, f"{where}columns: {', '.join(twice)} stands there twice; give each column a key of its own")
    _check_seeds(f"{where}seeds", table.seeds)
    _check_seeds(f"{where}student_seeds", table.student_seeds)
    for name in table.methods:
        _check_name(f"{where}methods", name)
    _check_choice(f"{where}baseline", [table.baseline], table.methods)
    _check_choice(f"{where}published_as", list(table.published_as) or None, table.methods)
    parts = {"overrides": table.overrides} | {f"methods: {name}": each for name, each in table.methods.items()}
    parts |= {f"columns: {column.key}: overrides": column.overrides for column in table.columns}
    for part, overrides in parts.items():
        check_reserved(f"{where}{part}: ", overrides)
        for key, value in overrides.items():
            top = key.replace("/", ".").partition(".")[0]
            require(  # sets are shared between columns, whatever machine made them
                top != "machine" or part == "overrides",
                f"{where}{part}: {key} is the same for all cells; move it to the overrides of the table",
            )
            require(
                KEY_NAME.fullmatch(key) is not None and top in RUN_KEYS,
                f"{where}{part}: {key}: expected a key of `manifoldgd run` ({', '.join(RUN_KEYS)}); remove it",
            )
            if key in GROUPS or "/" in key:
                _check_choices(f"{where}{part}: {key}", value)
            _check_values(f"{where}{part}: {key}", value)


def check_reserved(where: str, overrides: Iterable[str]) -> None:
    """Refuse overrides of what columns and seeds decide."""
    for key in overrides:
        place = "the columns" if key in COLUMN_KEYS else "seeds, student_seeds and output of the table"
        require(key not in RESERVED, f"{where}{key} is set by {place}; remove it here")


def _check_choices(where: str, value: Any) -> None:
    """Refuse paths as choices."""
    for each in value if isinstance(value, list) else [value]:
        named = isinstance(each, str) and CHOICE_NAME.fullmatch(each) is not None
        require(
            named,
            f"{where}: expected the name of a choice, got {each!r}; a folder of yours is given by prior: folder with "
            "prior.path, or dataset: image_folder with dataset.folder",
        )


def _check_values(where: str, value: Any) -> None:
    """Refuse what does more than state a value: resolvers."""
    if isinstance(value, dict):
        for key, each in value.items():
            require(re.fullmatch(r"[\w.-]+", str(key)) is not None, f"{where}: {key!r} is no key; correct it")
            _check_values(f"{where}.{key}", each)
    elif isinstance(value, list):
        for each in value:
            _check_values(where, each)
    elif isinstance(value, str):
        require(
            "${" not in INTERPOLATION.sub("", value),
            f"{where}: expected a value, or another key as ${{key}}, got {value!r}; a table calls no resolvers",
        )


def _check_seeds(where: str, seeds: Sequence[int]) -> None:
    require(
        bool(seeds) and len(set(seeds)) == len(seeds),
        f"{where}: expected different whole numbers of at least 0, at least one, got {list(seeds)}; "
        f"set {where.rpartition(' ')[2]}: [0, 1]",
    )


def _check_name(where: str, name: str) -> None:
    require(
        FILE_NAME.fullmatch(name) is not None,
        f"{where}: expected a name of letters, digits and _.+- (folders are called by it), got {name!r}; rename it",
    )


def _check_choice(where: str, names: Sequence[str] | None, known: Iterable[str]) -> None:
    listed = ", ".join(known)
    for name in names or ():
        hint = nearest(str(name), known, otherwise=f"choose among {listed}")
        require(name in known, f"{where}: no {name!r} in this table, which has {listed}; {hint}")
    require(names is None or len(names) > 0, f"{where}: expected at least one, got none; choose among {listed}")


def check_labels(protocols: Mapping[str, LabelProtocol]) -> None:
    """Raise :class:`UserError` if a table mixes hard-label and soft-label protocols, given by column."""
    soft, hard = ([key for key, each in protocols.items() if each.labels == kind] for kind in ("soft", "hard"))
    if soft and hard:
        names = protocols[hard[0]].name, protocols[soft[0]].name
        raise UserError(
            f"columns: {hard[0]} has hard labels ({names[0]}), {soft[0]} soft ones ({names[1]}); "
            "their accuracies cannot be compared: make two tables"
        )


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra's command line takes it; a key ``~x`` without a value removes ``x``."""
    return key if key.startswith("~") and value is None else f"{key}={spelled(value)}"


def merged(*parts: Overrides) -> dict[str, Any]:
    """One mapping; a later part wins and is applied later."""
    found: dict[str, Any] = {}
    for part in parts:
        found = {key: value for key, value in found.items() if key not in part} | dict(part)
    return found


def spelled(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spelled(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(spelled, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf")
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
