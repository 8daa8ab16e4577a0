"""One table, from its file to its pages: what ``manifoldgd table`` does with what it was given."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from manifoldgd import __version__
from manifoldgd.cli.components import build
from manifoldgd.cli.compose import compose
from manifoldgd.cli.dry_run import describe, missing, time_needed
from manifoldgd.cli.plan import Plan, Row, plan_table
from manifoldgd.cli.table import TableOptions
from manifoldgd.errors import UserError, require
from manifoldgd.files import one_at_a_time
from manifoldgd.pipeline.classifiers import full_data_accuracy
from manifoldgd.priors.loading import only_cached
from manifoldgd.stopping import Stopped
from manifoldgd.study.board import RECORD, Board, check_folder
from manifoldgd.study.cells import take_sets
from manifoldgd.study.definition import TableDefinition, find_table, read_definition, table_name
from manifoldgd.study.record import check_nothing_lost, check_same_table, read_record, recorded_sets, write_record
from manifoldgd.study.results import SetResult, TableResult
from manifoldgd.study.run import alone_in, run_left
from manifoldgd.study.scores import with_scores

RANDOM = "random"  # the source whose sets DD-Ranking's scores compare every other one with


class Study:
    """A table, its options and its folders."""

    def __init__(self, options: TableOptions) -> None:
        assert options.table is not None
        self.options = options
        self.file = find_table(options.table)
        self.name = table_name(self.file)
        self.output = Path(options.output or f"outputs/tables/{self.name}").expanduser()
        self.whole = read_definition(self.file)
        self.table = self.whole.chosen(
            methods=options.methods,
            columns=options.columns,
            seeds=options.seeds,
            student_seeds=options.student_seeds,
        )
        self.launching = options.launching
        self.launching.check()

    @cached_property
    def record(self) -> TableResult | None:
        """The recorded result, if there is one."""
        file = self.file.parent / RECORD
        return read_record(file) if file.is_file() else None

    @property
    def asked(self) -> TableDefinition:
        """All rows and columns, with the student seeds asked for."""
        return self.whole.chosen(student_seeds=self.options.student_seeds)

    @cached_property
    def scope(self) -> Plan:
        """The cells asked for; when a record is extended, all that it may hold beside them."""
        table: TableDefinition = self.table
        if self.options.extend and self.record:
            seeds = sorted({*table.seeds, *self.record.seeds})
            table = self.asked.chosen(seeds=seeds)
        return plan_table(table, self.options.overrides)

    @cached_property
    def plan(self) -> Plan:
        """The cells asked for."""
        return self.scope.part(self.table)

    @cached_property
    def scoring(self) -> Scoring | None:
        """What DD-Ranking's scores need, where they were asked for."""
        return Scoring(self.plan) if self.options.scores else None

    def show(self, part: str) -> int:
        """Print the configuration of every row: ``job``, ``hydra`` or ``all``."""
        for row in self.plan.rows:
            print(f"# {row.name}\n{row.composed.text(part)}")
        return 0

    def dry_run(self) -> int:
        """Say what would be done, what is missing and how long it takes; 1 if something is missing."""
        _ = self.scoring
        board = self.board()
        print(f"table {self.name}: {self.table.title}\n{describe(self.plan, board.left)}", flush=True)
        known = [*board.sets.values(), *(self.record.sets if self.record else ())]
        with only_cached():
            problems = missing(self.plan, here=self.launching.here)
        print("\n".join(["missing:", *problems]) if problems else "everything is there")
        for remark in self.plan.remarks:
            print(remark)
        print(time_needed(self.plan, board.left, known, self.launching.at_once(on_cpu=self.plan.on_cpu)))
        return 1 if problems else 0

    def write_pages_of_record(self) -> int:
        """Make the pages of the recorded result in the output folder, from its numbers alone.

        Raises:
            UserError: nothing is recorded, or the folder holds a table that was measured there.
        """
        from manifoldgd.study.rendering import write_table  # here, because it imports matplotlib and pandas

        file = self.file.parent / RECORD
        if self.record is None:
            raise UserError(f"pages: nothing is recorded, there is no {file}; measure the table with record=true")
        folder = self.output if self.options.output else self.output.with_name(f"{self.name}-recorded")
        if (folder / RECORD).is_file():
            raise UserError(f"output: {folder} holds a table that was measured there; choose another output")
        print(write_table(folder, self.record, scores=self.options.scores))
        print(f"table {self.name}, as recorded: {folder}/report.html")
        return 0

    def run(self) -> int:
        """Run what is left; 0 if every cell is finished, 1 if some failed."""
        for row in self.plan.rows:
            for problem in row.problems(here=self.launching.here)[:1]:
                raise UserError(f"cell {row.name}: {problem}")
        scoring = self.scoring
        for remark in self.plan.remarks:
            print(remark, flush=True)
        with alone_in(self.output):
            board = self.board()
            board.save()
            if places := [Path(each).expanduser() for each in self.options.sets_from or ()]:
                taken = take_sets(board.left, self.output, places)
                print(f"sets taken from other tables: {taken} of {len(board.left)}", flush=True)
            try:
                if scoring:
                    scoring.prepare()
                tried = run_left(board, self.launching.runner(board, on_cpu=self.plan.on_cpu))
            except Stopped as stop:
                self._write_pages(board)  # as far as the time goes that a stopped process has
                raise Stopped(stop.number, board.state) from None
            self._write_pages(board)
            return self._conclude(board, tried)

    def board(self) -> Board:
        """What is finished already.

        Raises:
            UserError: the folder, or the record to be extended, holds something else; or a record would lose sets.
        """
        kept: list[SetResult] = []
        if self.options.extend and self.record:
            check_same_table(self.file.parent / RECORD, self.record, self._blank([]), __version__)
            kept = recorded_sets(self.record, self.scope.cells, self.asked.students)
        blank = self._blank(kept)
        if (self.output / RECORD).is_file():
            check_same_table(self.output / RECORD, TableResult.load(self.output / RECORD), blank, __version__)
        for cell in self.plan.cells:
            check_folder(self.output, cell)
        board = Board(self.output, blank, self.plan.cells, kept)
        if self.options.record and self.record:
            places = [*board.sets, *(cell.place for cell in board.asked)]
            file, extending = self.file.parent / RECORD, self.options.extend
            check_nothing_lost(file, self.record, places, self.asked.students, extending=extending)
        return board

    def _blank(self, kept: list[SetResult]) -> TableResult:
        """The table without sets: the rows and columns asked for, the baseline's, and those of recorded sets."""
        whole = self.whole
        rows = {*self.table.methods, whole.baseline, *(one.method for one in kept)}
        methods = tuple(name for name in whole.methods if name in rows)
        held = {one.column for one in kept}
        columns = {column.key: column for column in (self.record.columns if self.record else ()) if column.key in held}
        columns |= {key: row.described() for key, row in self.plan.columns.items()}
        return TableResult(
            name=self.name,
            title=whole.title,
            question=whole.question,
            columns=tuple(
                replace(columns[each.key], student_seeds=each.student_seeds)
                for each in self.asked.columns
                if each.key in columns
            ),
            methods=methods,
            class_names=self.plan.class_names,
            seeds=tuple(sorted({*self.table.seeds, *(one.seed for one in kept)})),
            student_seeds=self.table.student_seeds,
            baseline=whole.baseline,
            split=whole.split,
            number_family=whole.number_family,
            published_as={name: each for name, each in whole.published_as.items() if name in methods},
            parameters=self.scope.scales,
            notes=whole.notes,
        )

    def _write_pages(self, board: Board) -> None:
        from manifoldgd.study.rendering import write_table  # here, because they import matplotlib and pandas
        from manifoldgd.tracking.tables import track_table

        if board.sets:
            result = self._result(board)
            print(write_table(self.output, result, scores=self.options.scores))
            tracker = self.plan.rows[0].setup.tracker
            track_table(tracker, result, self.output / "figures", group=self.output.name)

    def _result(self, board: Board) -> TableResult:
        return self.scoring.scored(board.result()) if self.scoring else board.result()

    def _conclude(self, board: Board, tried: bool) -> int:
        for cell in board.failed_cells:
            print(f"failed: {cell.name}: {board.failed[cell.place].reason}")
        print(f"table {self.name}: {board.state}; {self.output}/report.html")
        if not tried:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.output))
        if board.left:
            print("the same command tries the failed cells again; their logs lie in " + str(self.output / "logs"))
            return 1
        if self.options.record:
            self._write_record(board)
        return 0

    def _write_record(self, board: Board) -> None:
        """Record the result, beside what another process recorded while this one measured."""
        file = self.file.parent / RECORD
        with one_at_a_time(file, lambda: print(f"{file}: being written by another process; waiting")):
            before = self.record
            for name in ("record", "scope", "plan"):
                self.__dict__.pop(name, None)
            if self.record != before:
                board = self.board()
            write_record(self.file.parent, self._result(board), scores=self.options.scores)
        print(f"recorded: {file}; `manifoldgd table table={self.options.table} pages=true` makes its page")


class Scoring:
    """What DD-Ranking's scores need besides the cells: a random row, and full-data accuracies made before cells run.

    Raises:
        UserError: on construction, if no row asked for holds random real images, or a protocol has no recipe.
    """

    def __init__(self, plan: Plan) -> None:
        rows = [row for row in plan.rows if row.config.source == RANDOM and not row.config.reconstruct]
        require(
            bool(rows),
            "scores: no row of random real images in this table; add `random: {source: random}` to methods of "
            "table.yaml, or random to methods=",
        )
        self.config = compose(name="scores").values
        self.random = rows[0].method
        self.columns = {key: row for key, row in plan.columns.items() if row.setup.student.protocol.labels == "hard"}
        self.full: dict[str, float] = {}  # by column, in [0, 1]
        for key, row in self.columns.items():
            require(
                _protocol(row) in self.config.full_data,
                f"scores: column {key} has the protocol {_protocol(row)}, for which full_data of conf/scores.yaml "
                "names no recipe; add one",
            )

    def prepare(self) -> None:
        """Train the student of each hard-label column on all real images, or find it in the cache."""
        for key, row in self.columns.items():
            student, dataset = row.setup.student, row.setup.dataset
            print(f"scores: {key}: {student.name} trained on all images of {dataset.name}", flush=True)
            machine = row.setup.once("machine", row.config)
            machine.prepare()
            recipe = build(self.config, self.config.full_data[_protocol(row)])
            self.full[key] = full_data_accuracy(dataset, student, recipe, machine, Path(row.config.cache))

    def scored(self, result: TableResult) -> TableResult:
        """The table with the scores that are defined; those that need an unknown full-data accuracy are missing."""
        return with_scores(result, random=self.random, full=self.full, weight=self.config.weight)


def _protocol(row: Row) -> str:
    return row.setup.student.protocol.name
