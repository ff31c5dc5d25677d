"""Detection and segmentation transfer with detectron2."""
