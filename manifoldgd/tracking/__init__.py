"""Where curves, pictures and tables go besides the disk. The only package that imports wandb, and only when asked to.

Weights & Biases never decides whether a run succeeds: what it cannot take is said in one line and lies on disk.
"""

from manifoldgd.tracking.tables import track_table
from manifoldgd.tracking.tracker import NoTracker, Tracker
from manifoldgd.tracking.wandb_tracker import WandbTracker

__all__ = ["NoTracker", "Tracker", "WandbTracker", "track_table"]
