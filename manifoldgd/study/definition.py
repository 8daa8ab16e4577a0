"""A table as data: ``experiments/<name>/table.yaml``, read and checked.

Rows are methods, columns are a dataset, a number of images a class and a student. Both are given as overrides of
``manifoldgd run``, so a table can vary whatever a run can.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from manifoldgd.errors import UserError, require
from manifoldgd.ranges import Million, Seed, check
from manifoldgd.students.protocol import LabelProtocol

Overrides = Mapping[str, Any]  # key of `manifoldgd run` -> value

SPLITS = ("test", "validation")
# What a column and the seeds decide; anywhere else it would make cells of one column differ.
COLUMN_KEYS = ("dataset", "ipc", "student")
SEED_KEYS = ("seed", "student_seeds")
RESERVED = (*COLUMN_KEYS, *SEED_KEYS, "output", "set")
# Keys of `manifoldgd run` that cells may be given, and the groups among them, whose values are names. Nothing else: a
# table may come from elsewhere, and Hydra's own keys can start programs.
GROUPS = ("dataset", "prior", "clusterer", "guidance", "sampler", "student", "machine", "logger", "experiment")
RUN_KEYS = (*GROUPS, "start", "overgeneration", "source", "reconstruct", "cache", "measures", "ipc", "seed", "set")
KEY_NAME = re.compile(r"[A-Za-z_]\w*([./]\w+)*(@[\w.]+)?")
CHOICE_NAME = re.compile(r"\w[\w.-]*")
INTERPOLATION = re.compile(r"\$\{\.*\w+(\.\w+)*\}")  # of another key; those that call a resolver can read the machine
FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, kw_only=True)
class ColumnDefinition:
    """Where methods are compared."""

    key: str  # short and unique; part of folder names
    dataset: str  # a choice of conf/dataset
    ipc: int  # images a class, at least 1
    student: str  # a choice of conf/student
    overrides: Overrides = field(default_factory=dict)
    student_seeds: tuple[int, ...] | None = None  # None: those of the table; fewer where students take long

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
    seeds: tuple[int, ...]  # distillation seeds
    student_seeds: tuple[int, ...]
    baseline: str  # the method that the others are compared with, on the same seeds
    number_family: str  # of the published numbers that may stand beside these
    overrides: Overrides = field(default_factory=dict)  # of every cell
    split: str = "test"  # which images judge: test, or a validation split cut from the training split
    published_as: Mapping[str, str] = field(default_factory=dict)  # method -> name in published_results.csv
    notes: tuple[str, ...] = ()

    @property
    def students(self) -> Mapping[str, tuple[int, ...]]:
        """The student seeds of each column, by its key."""
        return {column.key: column.student_seeds or self.student_seeds for column in self.columns}

    def chosen(
        self,
        *,
        methods: Sequence[str] | None,
        columns: Sequence[str] | None,
        seeds: Sequence[int] | None,
        student_seeds: Sequence[int] | None,
    ) -> TableDefinition:
        """The part of the table that was asked for; ``None`` takes all, or the seeds of the file.

        ``student_seeds`` are those of every column, also of those that have their own in the file.

        Raises:
            UserError: a method or column is not in the table, or a seed list is empty or has duplicates.
        """
        known = [column.key for column in self.columns]
        _check_choice("methods", methods, list(self.methods))
        _check_choice("columns", columns, known)
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
        for name in ("seeds", "student_seeds"):
            _check_seeds("", name, list(getattr(changed, name)))
        return changed


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
    require(isinstance(held, dict), f"{file}: expected keys and values, got {type(held).__name__}; correct the file")
    _check_keys(f"{file}: ", held, TableDefinition)
    _check_types(file, held)
    columns = tuple(_column(file, each) for each in held.pop("columns"))
    methods = {str(name): _plain(each) for name, each in held.pop("methods").items()}
    lists = {name: tuple(held.pop(name)) for name in ("seeds", "student_seeds", "notes") if name in held}
    table = TableDefinition(methods=methods, columns=columns, **held, **lists)
    _check_table(file, table)
    return table


def check_labels(protocols: Mapping[str, LabelProtocol]) -> None:
    """Refuse a table that mixes hard-label and soft-label protocols.

    Args:
        protocols: by column.

    Raises:
        UserError: both kinds occur; names a column of each.
    """
    soft, hard = ([key for key, each in protocols.items() if each.labels == kind] for kind in ("soft", "hard"))
    if soft and hard:
        names = protocols[hard[0]].name, protocols[soft[0]].name
        raise UserError(
            f"columns: {hard[0]} has hard labels ({names[0]}), {soft[0]} soft ones ({names[1]}); "
            "their accuracies cannot be compared: make two tables"
        )


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra's command line takes it."""
    return f"{key}={spelled(value)}"


def merged(*parts: Overrides) -> dict[str, Any]:
    """One mapping; a later part wins and is applied later."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            result.pop(key, None)
            result[key] = value
    return result


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


def _column(file: Path, held: Any) -> ColumnDefinition:
    require(isinstance(held, dict), f"{file}: columns: expected keys and values, got {held!r}; see another table.yaml")
    where = f"{file}: columns: {held.get('key', '?')}: "
    _check_keys(where, held, ColumnDefinition)
    seeds = held.get("student_seeds")
    if seeds is not None:
        require(isinstance(seeds, list), f"{where}student_seeds: expected a list, got {seeds!r}; correct it")
        _check_seeds(where, "student_seeds", seeds)
    given = held.get("overrides")
    fine = given is None or isinstance(given, dict)
    require(fine, f"{where}overrides: expected keys and values, got {given!r}; write key: value")
    column = ColumnDefinition(
        **{
            **held,
            "overrides": _plain(held.get("overrides")),
            "student_seeds": None if seeds is None else tuple(seeds),
        }
    )
    for name in ("key", "dataset", "student"):
        value = getattr(column, name)
        require(isinstance(value, str) and bool(value), f"{where}{name}: expected a text, got {value!r}; correct it")
    _check_name(f"{where}key", column.key)
    for name in ("dataset", "student"):
        _check_choices(f"{where}{name}", getattr(column, name))
    check(f"{where}ipc", column.ipc, Million)
    return column


def _plain(held: Any) -> Overrides:
    return {str(key): value for key, value in (held or {}).items()}


def _check_table(file: Path, table: TableDefinition) -> None:
    keys = [column.key for column in table.columns]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    require(not twice, f"{file}: columns: {', '.join(twice)} stands there twice; give each column a key of its own")
    for name in ("seeds", "student_seeds"):
        _check_seeds(f"{file}: ", name, list(getattr(table, name)))
    for name in table.methods:
        _check_name(f"{file}: methods", name)
    _check_choice(f"{file}: baseline", [table.baseline], list(table.methods))
    _check_choice(f"{file}: published_as", list(table.published_as) or None, list(table.methods))
    require(
        table.split in SPLITS,
        f"{file}: split: expected one of {', '.join(SPLITS)}, got {table.split!r}; correct it",
    )
    parts = {f"methods: {name}": each for name, each in table.methods.items()}
    parts |= {f"columns: {column.key}: overrides": column.overrides for column in table.columns}
    for where, overrides in parts.items():
        _check_one_machine(f"{file}: {where}: ", overrides)
    for where, overrides in {"overrides": table.overrides, **parts}.items():
        check_reserved(f"{file}: {where}: ", overrides)
        _check_harmless(f"{file}: {where}: ", overrides)


def check_reserved(where: str, overrides: Iterable[str]) -> None:
    """Refuse overrides of what columns and seeds decide."""
    for key in overrides:
        place = "the columns" if key in COLUMN_KEYS else "seeds, student_seeds and output of the table"
        require(key not in RESERVED, f"{where}{key} is set by {place}; remove it here")


def _check_harmless(where: str, overrides: Overrides) -> None:
    """Refuse what could do more than choose values: keys that are none of a run's, paths as choices, resolvers."""
    for key, value in overrides.items():
        top = key.replace("/", ".").partition(".")[0]
        require(
            KEY_NAME.fullmatch(key) is not None and top in RUN_KEYS,
            f"{where}{key}: expected a key of `manifoldgd run` ({', '.join(RUN_KEYS)}); remove it",
        )
        if key in GROUPS or "/" in key:
            _check_choices(f"{where}{key}", value)
        _check_values(f"{where}{key}", value)


def _check_choices(where: str, value: Any) -> None:
    for each in value if isinstance(value, list) else [value]:
        require(
            isinstance(each, str) and CHOICE_NAME.fullmatch(each) is not None,
            f"{where}: expected the name of a choice, got {each!r}; correct it",
        )


def _check_values(where: str, value: Any) -> None:
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


def _check_one_machine(where: str, overrides: Iterable[str]) -> None:
    """Refuse a machine for some cells only: sets are shared between columns, whatever machine made them."""
    for key in overrides:
        of_machine = key.partition(".")[0] == "machine"
        require(not of_machine, f"{where}{key} is the same for all cells; move it to the overrides of the table")


def _check_types(file: Path, held: Mapping[str, Any]) -> None:
    kinds = {
        dict: ("a mapping", ("methods", "overrides", "published_as")),
        list: ("a list", ("columns", "seeds", "student_seeds", "notes")),
        str: ("a text", ("title", "question", "baseline", "split", "number_family")),
    }
    for kind, (spelled, names) in kinds.items():
        for name in names:
            if name in held:
                value = held[name]
                require(isinstance(value, kind), f"{file}: {name}: expected {spelled}, got {value!r}; correct it")
    for name in ("methods", "columns"):
        require(bool(held[name]), f"{file}: {name}: expected at least one, got none; add one")
    for name, each in held["methods"].items():
        fine = each is None or isinstance(each, dict)
        require(fine, f"{file}: methods: {name}: expected overrides like {{guidance: mode}}, got {each!r}; correct it")


def _check_keys(where: str, held: Mapping[str, Any], kind: type) -> None:
    known = {each.name: each for each in fields(kind)}
    for key in held:
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
        require(key in known, f"{where}unknown key {str(key)!r}; {hint}")
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        require(name in held or not needed, f"{where}{name}: expected a value, got none; add it")


def _check_seeds(where: str, name: str, seeds: list[Any]) -> None:
    check(f"{where}{name}", seeds, list[Seed])
    require(
        bool(seeds) and len(set(seeds)) == len(seeds),
        f"{where}{name}: expected different whole numbers of at least 0, at least one, got {seeds}; set {name}: [0, 1]",
    )


def _check_name(where: str, name: str) -> None:
    require(
        FILE_NAME.fullmatch(name) is not None,
        f"{where}: expected a name of letters, digits and _.+- (folders are called by it), got {name!r}; rename it",
    )


def _check_choice(where: str, names: Sequence[str] | None, known: list[str]) -> None:
    for name in names or ():
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"choose among {', '.join(known)}"
        require(name in known, f"{where}: no {name!r} in this table, which has {', '.join(known)}; {hint}")
    require(names is None or len(names) > 0, f"{where}: expected at least one, got none; choose among {known}")
