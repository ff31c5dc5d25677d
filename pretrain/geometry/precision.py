"""Numerical ground rules that every function of the ball shares."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Curvature = float | Tensor
"""c > 0 of the space of curvature -c: a number, or a tensor of one element (learnable)."""


def as_float(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64; half precision becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def curvature_like(c: Curvature, x: Tensor) -> Curvature:
    """``c`` for arithmetic with ``x``: numbers stay exact, tensors take dtype and device of x.

    Raises:
        ValueError: the number is not positive and finite, or the tensor has several elements.
    """
    if isinstance(c, Tensor):
        if c.numel() != 1:
            raise ValueError(f"c must be one number, got a tensor of shape {tuple(c.shape)}")
        return c.reshape(()).to(device=x.device, dtype=x.dtype)
    if not 0 < c < math.inf:
        raise ValueError(f"c must be positive and finite, got {c}")
    return float(c)


def root(c: Curvature) -> Curvature:
    """The square root of c."""
    return c.sqrt() if isinstance(c, Tensor) else math.sqrt(c)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last dimension; its gradient at zero is zero.

    Squares are summed in float64: they neither overflow nor underflow for any float32 input,
    and the result is correct to the last bit or so.
    """
    squared = x.double().square().sum(-1)
    # The root's slope at 0 is infinite, and 0 times infinity is NaN: keep 0 out of it.
    empty = squared == 0
    length = torch.where(empty, 0.0, torch.where(empty, 1.0, squared).sqrt())
    return length.to(x.dtype)


def pairwise_euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Distances |x_i - y_j| of x (..., N, D) to y (..., M, D), (..., N, M), by differences."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@contextmanager
def ieee_matmul(device: torch.device) -> Iterator[None]:
    """Matrix products in full precision: no autocast, no TF32, no bf16 passes.

    TF32 keeps 10 bits: distances below about 5 between points at 0.999 of the radius vanish.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class _ExactMatmul(torch.autograd.Function):
    """x @ y.T whose forward and backward both run under :func:`ieee_matmul`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with ieee_matmul(x.device):
            return x @ y.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad
        return (
            exact_matmul(grad, y.mT) if need_x else None,
            exact_matmul(grad.mT, x.mT) if need_y else None,
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def exact_matmul(x: Tensor, y: Tensor) -> Tensor:
    """Product of x (..., N, D) and y (..., K, D) transposed, (..., N, K), in full precision.

    A local setting would not reach a backward pass that runs later; this function's does.
    """
    product: Tensor = _ExactMatmul.apply(x, y)  # type: ignore[no-untyped-call]
    return product
