"""Students: networks trained from scratch on a small set and tested on real images."""

from manifoldgd.students.augmentation import DSA, LargeImage
from manifoldgd.students.embedding import Classifier, train_classifier
from manifoldgd.students.protocol import HardLabel
from manifoldgd.students.student import Student

__all__ = ["DSA", "Classifier", "HardLabel", "LargeImage", "Student", "train_classifier"]
