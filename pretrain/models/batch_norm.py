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

from pretrain.core.errors import InputError

REMEDY = "take another backbone, or let the method leave batch norm as it is"


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics in training are those of ``group`` consecutive samples.

    Running statistics follow the mean over the groups of ``rows`` consecutive samples: a batch of
    several times as many leaves what that many forwards in a row would. In evaluation it is plain
    batch norm.
    """

    group: int = 0
    rows: int | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C) or (N, C, H, W); N a multiple of ``group`` in training."""
        count = len(input)
        if not self.training or count == self.group:
            plain: Tensor = super().forward(input)
            return plain
        assert count % self.group == 0, f"batch of {count} is no multiple of group {self.group}"
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        groups = count // self.group
        # A momentum of 1 leaves the groups' own statistics in these.
        means = self.running_mean.new_zeros((groups, self.num_features))
        variances = torch.ones_like(means)
        normalize = _by_one_node if _is_eager_cpu(input) else _by_node_of_each
        output = normalize(input, self, means, variances)
        forwards = 1 if self.rows is None else max(1, count // self.rows)
        for mean, variance in zip(means.chunk(forwards), variances.chunk(forwards), strict=True):
            self.running_mean.lerp_(mean.mean(0), self.momentum)
            self.running_var.lerp_(variance.mean(0), self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(forwards)
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 4), f"(N, C) or (N, C, H, W), got {tuple(input.shape)}"


class Activated(nn.Module):
    """Before a batch norm: the same for timm's ``BatchNormAct2d``, which has an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


class GroupBatchNormAct(Activated, GroupBatchNorm):
    """Groups in timm's batch norm with an activation."""


def _is_eager_cpu(input: Tensor) -> bool:
    return input.device.type == "cpu" and not torch.compiler.is_compiling()


def _by_node_of_each(
    input: Tensor, layer: nn.modules.batchnorm._BatchNorm, means: Tensor, variances: Tensor
) -> Tensor:
    """PyTorch's batch norm of each group: what a compiler fuses, and cuDNN has kernels for.

    Args:
        input: (N, C) or (N, C, H, W).
        layer: whose weights are used.
        means: (G, C), zeros; gets each group's mean.
        variances: (G, C), ones; gets each group's unbiased variance.
    """
    weight, bias, eps = layer.weight, layer.bias, layer.eps
    groups = zip(input.chunk(len(means)), means, variances, strict=True)
    return torch.cat([F.batch_norm(x, m, v, weight, bias, True, 1.0, eps) for x, m, v in groups])


def _by_one_node(
    input: Tensor, layer: nn.modules.batchnorm._BatchNorm, means: Tensor, variances: Tensor
) -> Tensor:
    """The same numbers; each group is written where it belongs, and autograd sees one node."""
    last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
    input = input.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    output: Tensor = _GroupedKernels.apply(  # type: ignore[no-untyped-call]
        input, layer.weight, layer.bias, (means, variances, layer.eps)
    )
    return output


class _GroupedKernels(torch.autograd.Function):
    """Native kernels on the groups of a dense tensor, into one result.

    ``native_group_norm`` on a view of (groups, C, samples x H, W) would do the forward of a
    channels-last map in one call, but its backward takes about thirty times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, rest: tuple[Tensor, Tensor, float]
    ) -> Tensor:
        *running, eps = rest
        output = torch.empty_like(input)
        saved = [torch.empty_like(running[0]) for _ in range(2)]  # mean, inverse deviation
        groups = len(saved[0])
        native: Any = torch.native_batch_norm
        for x, y, *own in zip(
            input.chunk(groups), output.chunk(groups), *running, *saved, strict=True
        ):
            native(x, weight, bias, *own[:2], True, 1.0, eps, out=(y, *own[2:]))
        ctx.save_for_backward(input, weight, *saved)
        ctx.eps = eps
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        found = [
            torch.ops.aten.native_batch_norm_backward(
                g, x, weight, None, None, m, i, True, ctx.eps, wanted
            )
            for g, x, m, i in zip(
                grad.chunk(len(mean)), input.chunk(len(mean)), mean, inverse, strict=True
            )
        ]
        of_input, of_weight, of_bias = zip(*found, strict=True)
        return (
            torch.cat(of_input) if wanted[0] else None,
            torch.stack(of_weight).sum(0) if wanted[1] else None,
            torch.stack(of_bias).sum(0) if wanted[2] else None,
            None,
        )


def group_batch_norm(module: nn.Module, group: int, rows: int | None = None) -> nn.Module:
    """Give every batch norm of ``module`` groups of ``group`` samples, in place.

    Args:
        module: what is changed.
        group: samples that share statistics.
        rows: samples of a forward, a multiple of ``group``; None: all that it is given.

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
        layer.group, layer.rows = group, rows
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
