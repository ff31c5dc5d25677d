"""Detectors as detectron2 builds them: configs, protocol forms, heads, backbones of timm."""
