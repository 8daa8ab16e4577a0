"""Students: networks trained from scratch on a small set and tested on real images; and their teachers."""

from manifoldgd.students.augmentation import DSA, LargeImage
from manifoldgd.students.classifier import Classifier, train_classifier
from manifoldgd.students.protocol import HardLabel, SoftLabel
from manifoldgd.students.recipe import Recipe, ShiftFlip
from manifoldgd.students.student import Student, TimmStudent

__all__ = [
    "DSA",
    "Classifier",
    "HardLabel",
    "LargeImage",
    "Recipe",
    "ShiftFlip",
    "SoftLabel",
    "Student",
    "TimmStudent",
    "train_classifier",
]
