"""Batch norm in groups against one batch norm per group: values, gradients, statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.models import batch_norm
from pretrain.models.batch_norm import GroupBatchNorm, group_batch_norm

GROUP, CHANNELS = 4, 5
MOMENTUM = 0.1

Layout = Callable[[Tensor], Tensor]

LAYOUTS: dict[str, tuple[tuple[int, ...], Layout]] = {
    "channels last": ((12, CHANNELS, 6, 3), lambda x: x.to(memory_format=torch.channels_last)),
    "contiguous": ((12, CHANNELS, 6, 3), Tensor.contiguous),
    "one pixel": ((12, CHANNELS, 1, 1), lambda x: x.to(memory_format=torch.channels_last)),
    "rows": ((12, CHANNELS), Tensor.contiguous),
    "strided": ((12, CHANNELS, 6, 3), lambda x: x.repeat_interleave(2, 3)[:, :, :, ::2]),
}


def layer(dtype: torch.dtype, dimensions: int) -> GroupBatchNorm:
    kind = nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d
    found = kind(CHANNELS, momentum=MOMENTUM).to(dtype)
    with torch.no_grad():
        for number, value in enumerate(found.parameters()):
            value.copy_(torch.linspace(-1, 1.5 + number, CHANNELS))
    group_batch_norm(found, GROUP)
    assert isinstance(found, GroupBatchNorm)
    return found


def reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, and the mean over groups of their means and unbiased variances."""
    parts = x.chunk(len(x) // GROUP)
    output = torch.cat([F.batch_norm(p, None, None, weight, bias, True, 0.0, eps) for p in parts])
    flat = [p.detach().double().transpose(0, 1).flatten(1) for p in parts]
    means = torch.stack([p.mean(1) for p in flat]).mean(0)
    variances = torch.stack([p.var(1) for p in flat]).mean(0)
    return output, means, variances


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_a_batch_norm_of_each_group(name: str, dtype: torch.dtype) -> None:
    shape, arrange = LAYOUTS[name]
    generator = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 2
    x = arrange(values.to(dtype)).detach().requires_grad_()
    # Weights of float32 with maps of bfloat16, as under autocast.
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    norm = layer(wide, len(shape))
    weight, bias = norm.weight, norm.bias
    output = norm(x)
    expected, means, variances = reference(x, weight, bias, norm.eps)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected)
    cotangent = arrange(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
    found = torch.autograd.grad(output, (x, weight, bias), cotangent)
    wanted = torch.autograd.grad(expected, (x, weight, bias), cotangent)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    tolerance = 1e-12 if wide == torch.float64 else 1e-6
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for buffer, start, value in (
        (norm.running_mean, 0.0, means),
        (norm.running_var, 1.0, variances),
    ):
        moved = (1 - MOMENTUM) * start + MOMENTUM * value
        torch.testing.assert_close(buffer.double(), moved, rtol=tolerance, atol=tolerance)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["channels last", "contiguous"])
def test_keeps_the_memory_format(name: str) -> None:
    shape, arrange = LAYOUTS[name]
    x = arrange(torch.randn(shape)).requires_grad_()
    output = layer(torch.float32, 4)(x)
    assert output.stride() == x.stride()
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.stride() == x.stride()


def test_gradients_against_differences() -> None:
    norm = layer(torch.float64, 4)
    x = torch.randn(8, CHANNELS, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, norm.weight, norm.bias))


def test_what_takes_no_gradient_gets_none() -> None:
    norm = layer(torch.float32, 4)
    norm.weight.requires_grad_(False)
    x = torch.randn(8, CHANNELS, 2, 2)
    norm(x).sum().backward()
    assert norm.weight.grad is None
    torch.testing.assert_close(norm.bias.grad, torch.full((CHANNELS,), 32.0))


def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(12, CHANNELS, 4, 4)
    one, other = layer(torch.float32, 4), layer(torch.float32, 4)
    found = one(x)
    monkeypatch.setattr(batch_norm, "_is_eager_cpu", lambda _: False)
    torch.testing.assert_close(found, other(x), rtol=0, atol=0)
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name), rtol=0, atol=0)


def test_a_forward_of_several_batches_leaves_what_forwards_in_a_row_leave() -> None:
    one, other = layer(torch.float64, 4), layer(torch.float64, 4)
    one.rows = 2 * GROUP
    x = torch.randn(6 * GROUP, CHANNELS, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(one(x), torch.cat([other(part) for part in x.chunk(3)]))
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name))


def test_timm_s_layer_with_an_activation() -> None:
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(CHANNELS)
    x = torch.randn(8, CHANNELS, 3, 3)
    expected, _, _ = reference(x, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(group_batch_norm(norm, GROUP)(x), expected.relu())
