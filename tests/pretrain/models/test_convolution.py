"""Convolutions with a gradient by a matrix product, against PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pretrain.models import Encoder, EncoderSettings, convolution, use_products
from pretrain.models.convolution import ProductConv2d


def of_both(layer: nn.Conv2d, size: tuple[int, int], count: int = 2) -> None:
    """Outputs and gradients of the two ways agree."""
    other = use_products(copy.deepcopy(layer))
    assert isinstance(other, ProductConv2d)
    x = torch.randn(count, layer.in_channels, *size, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last)
    assert other._wants_product(x)
    results = []
    for one in (layer, other):
        input = x.clone(memory_format=torch.preserve_format).requires_grad_()
        output = one(input)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        results.append((output, *torch.autograd.grad(output, (input, one.weight), cotangent)))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)
    # The strides of the weights, or each step would copy the gradient.
    assert results[1][2].stride() == other.weight.stride()


@pytest.mark.parametrize("kernel", [1, 3, (1, 3), 7])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 3)])
def test_equals_pytorch(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    layer = nn.Conv2d(4, 48, kernel, stride, padding, bias=False).double()
    of_both(layer.to(memory_format=torch.channels_last), (8, 7))


def test_a_network_gets_the_same_gradients() -> None:
    torch.manual_seed(0)
    plain = Encoder(EncoderSettings(backbone="resnet18", hidden=8, dim=8)).double().train()
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = use_products(copy.deepcopy(plain))
    images = torch.randn(4, 3, 48, 48, dtype=torch.float64).to(memory_format=torch.channels_last)
    for network in (plain, other):
        network(images).square().sum().backward()
    assert sum(isinstance(layer, ProductConv2d) for layer in other.modules()) == 20
    assert other.state_dict().keys() == plain.state_dict().keys()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 8, 3, groups=2, bias=False),
        nn.Conv2d(4, 8, 3, dilation=2, bias=False),
        nn.Conv2d(4, 8, 3, padding="same", bias=False),
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular", bias=False),
        nn.ConvTranspose2d(4, 8, 3, bias=False),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    assert type(use_products(copy.deepcopy(layer))) is type(layer)


def test_the_product_is_for_small_maps_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = use_products(nn.Conv2d(4, 8, 1, bias=False))
    assert isinstance(layer, ProductConv2d)

    def takes(*shape: int, memory_format: torch.memory_format = torch.channels_last) -> bool:
        return layer._wants_product(torch.zeros(shape).to(memory_format=memory_format))

    monkeypatch.setattr(convolution, "CELLS_PER_CHANNEL", 8)
    assert takes(4, 4, 4, 4)
    assert not takes(4, 4, 4, 5)
    assert not takes(4, 4, 4, 4, memory_format=torch.contiguous_format)
    with torch.no_grad():
        assert not takes(4, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(4, 4, 4, 4)
    monkeypatch.setattr(convolution, "CELLS_PER_CHANNEL", 1)
    assert not takes(4, 4, 4, 4)
