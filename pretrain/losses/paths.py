"""Which implementation sums the negatives: the rule, in one place."""

from __future__ import annotations

import importlib.util
import logging
from typing import Literal

import torch
from torch import Tensor

Path = Literal["auto", "plain", "matrix", "streaming", "triton"]
"""plain: reads like the equation, N x K logits, distances by differences. matrix: the logits from
one matrix product. streaming: tiles of the queue, nothing of size N x K. triton: the same in one
fused CUDA kernel. auto: matrix or streaming, by the number of logits; the kernel's arithmetic is
tested in Triton's interpreter, but it has not run on a GPU yet, so it waits to be asked for.
"""

SMALL = 2**20
"""Up to so many logits (4 MiB of float32) holding them all costs less than streaming."""

_log = logging.getLogger(__name__)
_said: set[tuple[str, ...]] = set()


def choose(path: Path, loss: str, query: Tensor, queue: Tensor, *, learnable: bool) -> Path:
    """The path to take, never "auto"; each choice is logged once.

    Args:
        path: as asked for.
        loss: its name, for messages.
        query: (N, D).
        queue: (K, D).
        learnable: curvature or temperature want a gradient, which the fused kernel does not give.

    Raises:
        ValueError: an unknown path, or "triton" where it cannot run.
    """
    if path not in ("auto", "plain", "matrix", "streaming", "triton"):
        raise ValueError(f"path must be auto, plain, matrix, streaming or triton, got {path!r}")
    if path == "triton" and (obstacle := _obstacle(query, learnable)):
        raise ValueError(f"path 'triton' {obstacle}; use 'auto' or 'streaming'")
    if path != "auto":
        return path
    chosen: Path = "matrix" if len(query) * len(queue) <= SMALL else "streaming"
    said = (loss, chosen, query.device.type)
    if said not in _said:
        _said.add(said)
        _log.info("%s: %s path on %s", loss, chosen, query.device.type)
    return chosen


def _obstacle(query: Tensor, learnable: bool) -> str:
    """Why the fused kernel cannot be used, or an empty string."""
    if learnable:
        return "gives no gradient to a curvature or temperature"
    if query.dtype != torch.float32:
        return "computes in float32 only"
    if importlib.util.find_spec("triton") is None:
        return "needs the triton package"
    if query.device.type != "cuda" and not _interpreting():
        return "needs a CUDA device"
    return ""


def _interpreting() -> bool:
    from triton import knobs  # type: ignore[import-untyped]

    return bool(knobs.runtime.interpret)
