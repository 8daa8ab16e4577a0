"""What several tests need of a board of cells."""

import io

import pytest
from fake_cells import blank, cell
from rich.console import Console

from manifoldgd.study import run as study_run
from manifoldgd.study.board import Board
from manifoldgd.study.cells import in_turn
from manifoldgd.study.run import ONE_THREAD, Pool, run_left

METHODS = ("a", "b")


def board_of(output, *, seeds=(0,), student_seeds=(0,), recorded=(), methods=METHODS):
    cells = in_turn([cell(method, seed) for method in methods for seed in seeds], seeds)
    return Board(output, blank(methods, seeds=seeds, student_seeds=student_seeds), cells, recorded)


def run(board, job, *, at_once=2, console=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "job_of", job)
        return run_left(board, Pool(board.output, at_once, ONE_THREAD), console or Console(file=io.StringIO()))
