"""``manifoldgd table ... scores=true``: what DD-Ranking's scores need besides the cells, made before the cells run."""

from __future__ import annotations

from pathlib import Path

from manifoldgd.cli.components import build
from manifoldgd.cli.compose import compose
from manifoldgd.cli.plan import Plan, Row
from manifoldgd.errors import require
from manifoldgd.pipeline.classifiers import full_data_accuracy
from manifoldgd.study.results import TableResult
from manifoldgd.study.scores import with_scores

RANDOM = "random"  # the source whose sets every other one is compared with


class Scoring:
    """The random row of a table, and the full-data accuracies of its columns as far as they are known.

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
        self._config = compose(name="scores").values
        self._random = rows[0].method
        self._columns = {key: row for key, row in plan.columns.items() if row.setup.student.protocol.labels == "hard"}
        for key, row in self._columns.items():
            require(
                _protocol(row) in self._config.full_data,
                f"scores: column {key} has the protocol {_protocol(row)}, for which full_data of conf/scores.yaml "
                "names no recipe; add one",
            )
        self.full: dict[str, float] = {}  # by column, in [0, 1]

    def prepare(self) -> None:
        """Train the student of each hard-label column on all real images, or find it in the cache."""
        for key, row in self._columns.items():
            student, dataset = row.setup.student, row.setup.dataset
            print(f"scores: {key}: {student.name} trained on all images of {dataset.name}", flush=True)
            machine = row.setup.once("machine", row.config)
            machine.prepare()
            recipe = build(self._config, self._config.full_data[_protocol(row)])
            self.full[key] = full_data_accuracy(dataset, student, recipe, machine, Path(row.config.cache))

    def scored(self, result: TableResult) -> TableResult:
        """The table with the scores that are defined; those that need an unknown full-data accuracy are missing."""
        return with_scores(result, random=self._random, full=self.full, weight=self._config.weight)


def _protocol(row: Row) -> str:
    return row.setup.student.protocol.name
