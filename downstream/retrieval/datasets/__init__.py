"""Data sets of metric learning: labelled images with their protocol's splits."""

from downstream.retrieval.datasets.data_settings import DataSettings, open_images
from downstream.retrieval.datasets.labeled_images import LabelledImages, Split

__all__ = ["DataSettings", "LabelledImages", "Split", "open_images"]
