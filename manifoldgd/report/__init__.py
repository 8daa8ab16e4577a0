"""From numbers, images and latents to figures, tables and self-contained pages.

Everything here takes plain arguments and gives bytes, strings or files; nothing trains, samples or reads a
configuration. Accuracies are fractions in [0, 1] as arguments and percentages where a reader sees them.
"""
