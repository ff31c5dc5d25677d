"""Frozen features under a linear classifier and under their nearest neighbors."""
