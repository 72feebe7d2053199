"""Data sets: pictures with a truth, read one at a time."""

from .base import Dataset, Sample
from .registry import FOLDER, NAMES, TREES, open_dataset

__all__ = ["FOLDER", "NAMES", "TREES", "Dataset", "Sample", "open_dataset"]
