"""Data sets and metrics of detection, all in COCO's format: COCO, VOC and LVIS."""
