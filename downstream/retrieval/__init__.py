"""Recall@K of object crops, on the sphere and in the ball."""

from downstream.retrieval.recall import recall_at_k

__all__ = ["recall_at_k"]
