"""Convolutions whose weights' gradient is one matrix product where a CPU's own way is slow.

PyTorch's kernel spends most of the backward of a network for small images on the weights of its
last stages: for maps of 2 x 2 cells, six times what the same numbers cost as a matrix product
(docs/performance.md). That was seen in float32; under autocast PyTorch's own way stays.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CELLS_PER_CHANNEL = 16
"""Output cells of a batch up to which the product is the faster way, per output channel.

The kernel's excess grows with the weights, the product's with the cells. On one thread of an AVX2
CPU the product takes from a sixth of the time at 0.25, half at 2 and nine tenths at 18, to one and
a half times as long at 32 and three times at 256.
"""


class ProductConv2d(nn.Conv2d):
    """``nn.Conv2d``; in training on a CPU, for channels-last maps, with the faster gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        if not self._wants_product(input):
            return super().forward(input)
        output: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.stride, self.padding
        )
        return output

    def _wants_product(self, input: Tensor) -> bool:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return False
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        if not input.is_contiguous(memory_format=torch.channels_last):
            return False
        assert not isinstance(self.padding, str)
        cells = len(input)
        for size, kernel, stride, padding in zip(
            input.shape[2:], self.kernel_size, self.stride, self.padding, strict=True
        ):
            cells *= (size + 2 * padding - kernel) // stride + 1
        return cells <= CELLS_PER_CHANNEL * self.out_channels


class _Convolution(torch.autograd.Function):
    """A convolution without bias, groups or dilation of a channels-last map."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(input, weight, stride=stride, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight = None, None
        if ctx.needs_input_grad[0]:
            only_input = [True, False, False]
            form = (ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1)
            of_input, _, _ = torch.ops.aten.convolution_backward(
                grad, input, weight, None, *form, only_input
            )
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(input, grad, weight.shape[2:], ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


def weight_gradient(
    input: Tensor,
    grad: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Tensor:
    """The gradient of a convolution's weights, (O, C, kh, kw), channels last.

    Args:
        input: (N, C, H, W).
        grad: of the output, (N, O, h, w).
        kernel: kh and kw.
        stride: of rows and columns.
        padding: likewise, with zeros.
    """
    count, channels, height, width = grad.shape
    x = F.pad(input.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    of_sample, of_row, of_column, _ = x.stride()
    patches = x.as_strided(
        (count, height, width, *kernel, x.shape[3]),
        (of_sample, of_row * stride[0], of_column * stride[1], of_row, of_column, 1),
    )
    rows = count * height * width
    product = grad.permute(0, 2, 3, 1).reshape(rows, channels).T @ patches.reshape(rows, -1)
    return product.view(channels, *kernel, x.shape[3]).permute(0, 3, 1, 2)


def use_products(module: nn.Module) -> nn.Module:
    """Let the convolutions of ``module`` that can choose the faster gradient, in place."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = ProductConv2d
    return module


def _is_plain(layer: nn.Conv2d) -> bool:
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.bias is None and layer.groups == 1 and layer.dilation == (1, 1) and padded
