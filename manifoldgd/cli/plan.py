"""Every cell of a table, composed and checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from manifoldgd.cli.components import build, plain
from manifoldgd.cli.compose import Config, composing
from manifoldgd.cli.setup import DIFFUSION, MANY_IN_A_FOLDER, Setup
from manifoldgd.cli.targets import KEY, allowed
from manifoldgd.cli.used import check_keys
from manifoldgd.errors import UserError, require, under
from manifoldgd.priors.loading import find_autoencoder
from manifoldgd.priors.prior import Prior
from manifoldgd.store.keys import key_of
from manifoldgd.store.results import differences
from manifoldgd.study.cells import Cell, in_turn
from manifoldgd.study.definition import Overrides, TableDefinition, check_labels, merged, override
from manifoldgd.study.results import Column

Built = dict[str, Any]  # what was built, or the UserError that it raised, by what describes it


class CellSetup(Setup):
    """The setup of one cell; cells that describe a dataset or a prior alike share it, and a failure to build it too.

    Nothing runs here, so everything is kept on the processor.
    """

    def __init__(self, config: Config, built: Built) -> None:
        values = config.values.copy()
        values.machine.accelerator, values.machine.threads = "cpu", None
        super().__init__("run", replace(config, values=values))
        self._built = built

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Inside the block the distillation seed is another one, wherever the configuration refers to it."""
        first, self.config.seed = self.config.seed, seed
        try:
            yield
        finally:
            self.config.seed = first

    @cached_property
    def dataset(self) -> Any:
        """The images."""
        return self.once("dataset", self.config)

    @cached_property
    def prior(self) -> Prior:
        """The latent diffusion model."""
        return self.once("prior", self.config)

    def built(self, group: str) -> Any:
        """As for one run; pretrained embeddings are read once for all rows."""
        return self.once(group, self.config)

    def once(self, group: str, config: DictConfig) -> Any:
        """What a group describes, built the first time only."""
        key = key_of(group, plain(config, group))
        if key not in self._built:
            try:
                self._built[key] = build(config, group, cache=self.cache)
            except UserError as error:
                self._built[key] = error
        if isinstance(self._built[key], UserError):
            raise self._built[key]
        return self._built[key]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one column: what its cells have in common."""

    method: str
    column: str  # its key
    composed: Config  # with the first seed
    setup: CellSetup
    cells: tuple[Cell, ...]

    @property
    def config(self) -> DictConfig:
        """The values."""
        return self.composed.values

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.column}/{self.method}"

    def problems(self, *, here: bool = True) -> list[str]:
        """Why the cells cannot work, one line each; nothing if they can. ``here``: on the machine we are on."""
        steps: list[Callable[[], Any]] = [
            lambda: self.setup.once("machine", self.config) if here else None,
            lambda: self.setup.dataset,
            lambda: self.setup.prior if self.setup.needs_prior else None,
            lambda: self._find_autoencoder() if self.setup.needs_prior else None,
            lambda: self.setup.check(makes_set=True, judges=True),
            lambda: self.setup.check_memory(self.setup.once("machine", self.config)) if here else None,
        ]
        found: dict[str, None] = {}
        for step in steps:
            try:
                step()
            except UserError as error:
                found[str(error)] = None
        return list(found)

    def _find_autoencoder(self) -> Path | None:
        prior = self.config.prior
        allow_bin = prior.get("allow_bin", False)
        with under("prior"):
            return find_autoencoder(prior.get("autoencoder"), prior.get("autoencoder_revision"), allow_bin)

    def described(self) -> Column:
        """The column, as results call it; the dataset by the name of its group while its data is missing."""
        try:
            name = self.setup.dataset.name
        except UserError:
            name = self.composed.choice("dataset")
        student = self.setup.student
        return Column(
            key=self.column,
            dataset=name,
            ipc=self.config.ipc,
            student=student.name,
            label_protocol=student.protocol.name,
            labels=student.protocol.labels,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A table, composed."""

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @property
    def columns(self) -> dict[str, Row]:
        """One row of each column, by key."""
        found: dict[str, Row] = {}
        for row in self.rows:
            found.setdefault(row.column, row)
        return found

    @property
    def cells(self) -> list[Cell]:
        """In the order they are to be run."""
        return in_turn((cell for row in self.rows for cell in row.cells), self.seeds)

    @property
    def scales(self) -> dict[str, float]:
        """Strength of the guidance by method, where there is one and all columns agree on it."""
        found: dict[str, set[float | None]] = {}
        for row in self.rows:
            scale = OmegaConf.select(row.config, "guidance.scale") if row.config.source == DIFFUSION else None
            found.setdefault(row.method, set()).add(scale)
        return {method: scale for method, (scale, *others) in found.items() if scale is not None and not others}

    @property
    def on_cpu(self) -> bool:
        """Whether every cell runs on the processor; a machine that is not there does not."""
        try:
            return all(row.setup.once("machine", row.config).device.type == "cpu" for row in self.rows)
        except UserError:
            return False

    @property
    def remarks(self) -> list[str]:
        """What is worth to know about the machine before hours on it; of one that is not there, nothing."""
        found: dict[str, None] = {}
        for row in self.rows:
            with suppress(UserError):
                if note := row.setup.once("machine", row.config).slow_rounding:
                    found[note] = None
        return list(found)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the datasets; none while data is missing or where columns differ in them."""
        try:
            names = {tuple(row.setup.dataset.class_names) for row in self.columns.values()}
        except UserError:
            return ()
        return names.pop() if len(names) == 1 else ()

    def part(self, table: TableDefinition) -> Plan:
        """The rows, columns and seeds of ``table`` only."""
        keys = {column.key for column in table.columns}
        rows = tuple(
            replace(row, cells=tuple(cell for cell in row.cells if cell.seed in table.seeds))
            for row in self.rows
            if row.method in table.methods and row.column in keys
        )
        return Plan(rows=rows, seeds=table.seeds)


def plan_table(table: TableDefinition, extra: Overrides) -> Plan:
    """Compose every cell of a table and check that the cells of a column can stand in one.

    Args:
        table: what is to be measured.
        extra: overrides of every cell, after the table's own.

    Raises:
        UserError: a cell cannot be composed, or a column mixes protocols; one line that names it.
    """
    rows: list[Row] = []
    built: Built = {}
    with composing() as compose:
        for column in table.columns:
            judged = {"student_seeds": table.students[column.key]}
            for method, own in table.methods.items():
                overrides = merged(column.choices, table.overrides, column.overrides, own, extra, judged)
                try:
                    row = plan_row(method, column.key, overrides, table.seeds, built, compose)
                    _check_split(table.split, row.config)
                except UserError as error:
                    raise UserError(f"cell {column.key}/{method}: {error}") from error
                rows.append(row)
    plan = Plan(rows=tuple(rows), seeds=table.seeds)
    protocols = {}
    for key, first in plan.columns.items():
        for row in (row for row in rows if row.column == key):
            _check_comparable(first, row)
        with suppress(UserError):  # a student that cannot be built is named with the other problems of its cells
            protocols[key] = first.setup.student.protocol
    check_labels(protocols)
    return plan


def plan_row(
    method: str, column: str, overrides: Overrides, seeds: Sequence[int], built: Built, compose: Callable[..., Config]
) -> Row:
    """Compose one method in one column, a cell for each seed.

    Args:
        method: its name.
        column: its key.
        overrides: of ``manifoldgd run``.
        seeds: distillation seeds.
        built: what other rows have built, for this one too.
        compose: from :func:`manifoldgd.cli.compose.composing`.

    Raises:
        UserError: it cannot be composed.
    """
    texts = [override(key, value) for key, value in overrides.items()]
    if allowed():  # on the command line, so in each cell's too
        texts.append(override(KEY, list(allowed())))
    composed = compose([*texts, override("seed", seeds[0])])
    check_keys("run", composed)
    setup = CellSetup(composed, built)
    judge = {key: value for key, value in setup.evaluation_config.items() if key not in MANY_IN_A_FOLDER}
    cells = []
    for seed in seeds:
        with setup.seeded(seed):
            cells.append(
                Cell(
                    method=method,
                    column=column,
                    seed=seed,
                    overrides=(*texts, override("seed", seed)),
                    set_config=setup.set_config,
                    judge_config=judge,
                    measures=setup.measures,
                )
            )
    return Row(method=method, column=column, composed=composed, setup=setup, cells=tuple(cells))


def _check_split(split: str, config: DictConfig) -> None:
    held_out = OmegaConf.select(config, "dataset.validation")
    require(
        bool(held_out) == (split == "validation"),
        f"split: the table says {split}, but dataset.validation is {held_out}; make them agree",
    )


def _check_comparable(first: Row, row: Row) -> None:
    one, other = (each.cells[0].judge_config | {"ipc": each.config.ipc} for each in (first, row))
    different = differences(one, other)
    require(
        not different,
        f"methods: {row.method} in column {row.column} is judged otherwise than {first.method} (different: "
        f"{', '.join(different)}); the cells of a column differ in how the set is made only",
    )
