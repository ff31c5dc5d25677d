"""Batch norm over groups of a fixed number of samples.

A key that shares its batch-norm statistics with its own query can be told apart by them
(MoCo, arXiv 1911.05722, §3.3). MoCo shuffles keys across GPUs; that does nothing on one GPU.
Here the unit is a *group* of samples, whatever the number of processes: one process with two
groups computes what two processes with one group each compute.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` whose statistics in training are those of ``group`` consecutive samples.

    Running statistics follow the mean over the groups. In evaluation it is ``BatchNorm2d``.
    """

    group: int = 0

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); N a multiple of ``group`` in training."""
        count = len(input)
        if not self.training or count == self.group:
            return super().forward(input)
        assert count % self.group == 0, f"batch of {count} is no multiple of group {self.group}"
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        outputs, means, variances = [], [], []
        for samples in torch.split(input, self.group):
            # A momentum of 1 leaves the group's own statistics in these.
            mean, variance = torch.empty_like(self.running_mean), torch.ones_like(self.running_var)
            mean.zero_()
            outputs.append(
                F.batch_norm(samples, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            )
            means.append(mean)
            variances.append(variance)
        self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)
        self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return torch.cat(outputs)


def group_batch_norm(module: nn.Module, group: int) -> nn.Module:
    """Give every ``BatchNorm2d`` of ``module`` groups of ``group`` samples, in place."""
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = GroupBatchNorm2d
            layer.group = group  # type: ignore[assignment]
    return module
