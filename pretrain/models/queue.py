"""The queue of past keys: a ring buffer of rows."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The newest ``size`` keys, saved and restored with the model.

    Rows rather than the official columns: enqueuing is one contiguous copy. Any batch size works,
    also one that does not divide ``size`` or exceeds it.

    Args:
        size: number of keys K.
        dim: width D.
        start: ``random`` fills the queue with random directions of length ``length``;
            ``empty`` starts with no negatives at all.
        length: Euclidean norm of the random rows: 1 on the sphere, less than the ball's radius
            in the ball.
        generator: source of the random rows.
    """

    rows: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        start: Literal["random", "empty"] = "random",
        length: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        rows = F.normalize(torch.randn(size, dim, generator=generator), dim=1) * length
        self.register_buffer("rows", rows if start == "random" else torch.zeros(size, dim))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        filled = size if start == "random" else 0
        self.register_buffer("filled", torch.tensor(filled, dtype=torch.int64))
        # Mirrors of the two scalars above, so that no step waits for the device.
        self._pointer, self._filled = 0, filled

    def keys(self) -> Tensor:
        """The valid rows, (at most K, D), as a view: read them before the next ``enqueue``."""
        return self.rows[: self._filled]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest rows with ``keys`` (B, D), in order."""
        size = len(self.rows)
        skipped = max(len(keys) - size, 0)
        start = (self._pointer + skipped) % size
        newest = keys[skipped:].to(self.rows.dtype)
        head = min(len(newest), size - start)
        self.rows[start : start + head] = newest[:head]
        self.rows[: len(newest) - head] = newest[head:]
        self._pointer = (self._pointer + len(keys)) % size
        self._filled = min(self._filled + len(keys), size)
        self.pointer.fill_(self._pointer)
        self.filled.fill_(self._filled)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._pointer, self._filled = int(self.pointer), int(self.filled)
