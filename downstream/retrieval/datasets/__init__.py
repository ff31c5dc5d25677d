"""Data sets of metric learning: labelled images with their protocol's splits."""

from downstream.retrieval.datasets.labelled import LabelledImages, Split
from downstream.retrieval.datasets.source import DataSettings, open_images

__all__ = ["DataSettings", "LabelledImages", "Split", "open_images"]
