"""Tables as the runner leaves them, with numbers that are easy to check by hand."""

from manifoldgd.study.results import Column, FailedSet, Judgement, SetResult, TableResult

COLUMNS = tuple(
    Column(key=f"ipc{ipc}", dataset="digits", ipc=ipc, student="ConvNet-3", label_protocol="hard_small")
    for ipc in (1, 10)
)


def judgements(last, best=None, per_class=None, student_seeds=None):
    """Students as a set's result holds them, from one list a quantity."""
    columns = (student_seeds or range(len(last)), last, best or [None] * len(last), per_class or [None] * len(last))
    return tuple(
        Judgement(student_seed=seed, last_top1=final, best_top1=most, per_class=classes)
        for seed, final, most, classes in zip(*columns, strict=True)
    )


def set_result(method, column, seed, last, **changes):
    best, per_class = [value + 0.01 for value in last], [(value + 0.1, value - 0.1) for value in last]
    facts = {
        "method": method,
        "column": column,
        "seed": seed,
        "key": f"{method}-{column}-{seed}",
        "students": judgements(last, best, per_class),
        "seconds": {"distill": 1.0, "students": 2.0},
    }
    return SetResult(**facts | changes)


def small_table(**changes):
    """Two methods by two columns; one cell with two sets, one failed, one not begun."""
    facts = {
        "name": "small",
        "title": "A small table",
        "question": "Does it help?",
        "columns": COLUMNS,
        "methods": ("random", "mode"),
        "class_names": ("zero", "one"),
        "seeds": (0, 1),
        "student_seeds": (0, 1),
        "baseline": "random",
        "split": "test",
        "number_family": "none",
        "parameters": {"mode": 0.1},
        "sets": (
            set_result("random", "ipc1", 0, (0.50, 0.52)),
            set_result("random", "ipc1", 1, (0.54, 0.56)),
            set_result("mode", "ipc1", 0, (0.60, 0.62)),
        ),
        "failed": (FailedSet(method="mode", column="ipc10", seed=0, reason="out of disk"),),
    }
    return TableResult(**facts | changes)
