"""Batch norm whose statistics are those of the global batch, on any device.

PyTorch's own runs on accelerators only. On a CPU the sums it needs travel through a
differentiable all-reduce, which is slow and right: what one process computes, several do too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pretrain import distributed
from pretrain.geometry.precision import as_float


class SynchronisedBatchNorm(nn.SyncBatchNorm):
    """``nn.SyncBatchNorm`` that works on a CPU too."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, H, W) over the samples of all processes."""
        if input.device.type != "cpu" or not (self.training and distributed.is_active()):
            plain: Tensor = super().forward(input)
            return plain
        x = as_float(input)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = _all_reduce(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _all_reduce(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _all_reduce(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scaled = centred * (variance.view(shape) + self.eps).rsqrt()
        result = scaled * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        torch.distributed.all_reduce(grad)
        return grad


def _all_reduce(value: Tensor) -> Tensor:
    total: Tensor = _AllReduce.apply(value)  # type: ignore[no-untyped-call]
    return total


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with every batch norm replaced by one over the global batch; names are kept."""
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    for layer in converted.modules():
        if type(layer) is nn.SyncBatchNorm:
            layer.__class__ = SynchronisedBatchNorm
    return converted
