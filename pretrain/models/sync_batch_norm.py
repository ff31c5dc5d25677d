"""Batch norm whose statistics are those of the global batch, on any device.

PyTorch's own runs on accelerators only. On a CPU the sums it needs travel through a
differentiable all-reduce, which is slow and right: what one process computes, several do too.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from pretrain import distributed
from pretrain.geometry.precision import as_float
from pretrain.models.batch_norm import Activated, convertible, has_activation


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """As ``nn.SyncBatchNorm``, but for a CPU too; in evaluation and alone, plain batch norm.

    No subclass of PyTorch's, which data-parallel training refuses on a CPU.
    """

    process_group = None  # all processes; read by PyTorch's forward

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C), (N, C, L) or (N, C, H, W) over the samples of all processes."""
        if not (self.training and distributed.is_active()):
            plain: Tensor = super().forward(input)
            return plain
        if input.device.type != "cpu":
            fused: Tensor = nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
            return fused
        x = as_float(input)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = _sum_over_ranks(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum_over_ranks(x.sum(dims)) / count
        centered = x - mean.view(shape)
        variance = _sum_over_ranks(centered.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scaled = centered * (variance.view(shape) + self.eps).rsqrt()
        result = scaled * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2, f"(N, C, ...), got {tuple(input.shape)}"

    def _check_non_zero_input_channels(self, input: Tensor) -> None:
        """Asked by PyTorch's forward; ours has channels."""

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


class SynchronizedBatchNormAct(Activated, SynchronizedBatchNorm):
    """The same for timm's batch norm with an activation."""


def _sum_over_ranks(value: Tensor) -> Tensor:
    """With gradient, which is summed over the processes too."""
    total: Tensor = all_reduce(value, group=None)  # type: ignore[no-untyped-call]
    return total


def synchronize_batch_norm(module: nn.Module) -> None:
    """Let every batch norm of ``module`` work on the global batch, in place.

    Raises:
        InputError: a batch norm is of another kind than PyTorch's and timm's own.
    """
    for _, layer in convertible(module):
        activated = has_activation(layer)
        layer.__class__ = SynchronizedBatchNormAct if activated else SynchronizedBatchNorm
