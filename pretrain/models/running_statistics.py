"""Running statistics of batch norm where a step is computed in several parts."""

from __future__ import annotations

import torch
from torch import nn


class RunningStatistics:
    """Lets the parts of a step move the running statistics as the whole would.

    Each part starts from the statistics before the step, and the step leaves the mean of what
    the parts made of them. As running statistics are linear in the batches', that is one update
    with the mean over the parts, not several updates in a row.

    Args:
        module: whose batch norms are looked after.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [
            buffer
            for layer in module.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
            if buffer is not None
        ]
        self._start = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        self._parts = 0

    @torch.no_grad()
    def end_part(self) -> None:
        """After the forwards of a part: keep what they made of the statistics, and go back."""
        for buffer, start, total in zip(self._buffers, self._start, self._sums, strict=True):
            total.add_(buffer)
            buffer.copy_(start)
        self._parts += 1

    @torch.no_grad()
    def end(self) -> None:
        """After the last part: leave the mean over all parts."""
        for buffer, total in zip(self._buffers, self._sums, strict=True):
            buffer.copy_(total / self._parts)
