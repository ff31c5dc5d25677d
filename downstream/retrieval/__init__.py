"""Recall@K of object crops, on the sphere and in the ball."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downstream.retrieval.recall import recall_at_k

__all__ = ["recall_at_k"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: commands of this package import torch only when they run.
    if name == "recall_at_k":
        from downstream.retrieval.recall import recall_at_k

        return recall_at_k
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
