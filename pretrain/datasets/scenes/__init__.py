"""Embedded data: procedural scenes of many objects, in COCO format."""
