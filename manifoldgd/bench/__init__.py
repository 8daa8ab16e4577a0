"""Speed as ratios within one run, and whether a device gives the results of the processor: ``manifoldgd bench``."""
