"""Where curves, pictures and tables go besides the disk. The only package that imports wandb, and only when asked to.

A tracker never decides whether a run succeeds: what it cannot take is said in one line, and the result is on disk.
"""

from manifoldgd.tracking.file_tracker import CSVTracker, TensorBoardTracker
from manifoldgd.tracking.tracker import NoTracker, RunFacts, RunResult, Tracker
from manifoldgd.tracking.wandb_tracker import WandbTracker

__all__ = [
    "CSVTracker",
    "NoTracker",
    "RunFacts",
    "RunResult",
    "TensorBoardTracker",
    "Tracker",
    "WandbTracker",
]
