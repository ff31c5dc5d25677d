"""Batch norm over groups of a fixed number of samples.

A key that shares its batch-norm statistics with its own query can be told apart by them
(MoCo, arXiv 1911.05722, §3.3). MoCo shuffles keys across GPUs; that does nothing on one GPU.
Here the unit is a *group* of samples, whatever the number of processes: one process with two
groups computes what two processes with one group each compute.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import InputError

REMEDY = "take another backbone, or let the method leave batch norm as it is"


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics in training are those of ``group`` consecutive samples.

    Running statistics follow the mean over the groups. In evaluation it is plain batch norm.
    """

    group: int = 0

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, H, W); N a multiple of ``group`` in training."""
        count = len(input)
        if not self.training or count == self.group:
            plain: Tensor = super().forward(input)
            return plain
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

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 4), f"(N, C) or (N, C, H, W), got {tuple(input.shape)}"


class GroupBatchNormAct(GroupBatchNorm):
    """The same for timm's ``BatchNormAct2d``, which has an activation of its own."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise and activate."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def group_batch_norm(module: nn.Module, group: int) -> nn.Module:
    """Give every batch norm of ``module`` groups of ``group`` samples, in place.

    Raises:
        InputError: a layer's rows are not samples, or it is a batch norm of another kind.
    """
    layers = convertible(module)
    for name, layer in layers:
        # In a backbone it stands among tokens: its rows are not samples.
        if isinstance(layer, nn.BatchNorm1d) and "backbone" in name.split("."):
            raise InputError(f"model.backbone: batch norm of tokens at '{name}'; {REMEDY}")
    for _, layer in layers:
        layer.__class__ = GroupBatchNormAct if has_activation(layer) else GroupBatchNorm
        layer.group = group
    return module


def convertible(module: nn.Module) -> list[tuple[str, Any]]:
    """The batch norms of ``module``, with their names.

    Raises:
        InputError: a layer keeps statistics of batches, but in a way of its own.
    """
    found = []
    for name, layer in module.named_modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) or has_activation(layer):
            found.append((name, layer))
        elif hasattr(layer, "running_var"):
            raise InputError(
                f"model.backbone: '{name}' is of kind {type(layer).__name__}, whose statistics "
                f"cannot be made those of other samples; {REMEDY}"
            )
    return found


def has_activation(layer: nn.Module) -> bool:
    """Whether ``layer`` is timm's batch norm with an activation; timm need not be installed."""
    kind = type(layer)
    return f"{kind.__module__}.{kind.__name__}" == "timm.layers.norm_act.BatchNormAct2d"
