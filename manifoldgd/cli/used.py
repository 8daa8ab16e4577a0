"""Which parts of the configuration each command uses."""

from __future__ import annotations

SET_KEYS = {
    *("dataset", "prior", "clusterer", "guidance", "sampler", "start", "overgeneration"),
    *("ipc", "source", "reconstruct", "seed"),
}
JUDGE_KEYS = {"dataset", "student", "student_seeds", "save_students", "measures", "embedding", "logger", "cell"}
SHARED_KEYS = {"machine", "output", "cache", "experiment"}
USED_KEYS = {
    "run": SET_KEYS | JUDGE_KEYS | SHARED_KEYS,
    "distill": SET_KEYS | SHARED_KEYS,
    "evaluate": JUDGE_KEYS | SHARED_KEYS | {"set", "reading"},
    "export": {"set", "reading", "format", "license", "push", "overwrite", "output"},
    "prior": {"dataset", "recipe", "seed", "dry_run"} | SHARED_KEYS,
    "dashboard": {"table", "sweep", "logger", "output"},
}
