"""Data sets of metric learning: labeled images with their protocol's splits."""

from downstream.retrieval.datasets.data_settings import DataSettings, open_images
from downstream.retrieval.datasets.labeled_images import LabeledImages, Split

__all__ = ["DataSettings", "LabeledImages", "Split", "open_images"]
