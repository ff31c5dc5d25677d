"""Color, blur and flip of whole batches, each sample with its own parameters and order.

The random numbers are drawn where the image is cut, on the CPU; the pixels are changed where the
model is. Operations and their order are those of MoCo v2 (Chen et al. 2020), factors those of
torchvision; the arithmetic is float32 without rounding in between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from pretrain.core.errors import InputError
from pretrain.core.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Channels = tuple[float, float, float]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDER = slice(0, 4)
"""Columns of the operation in each of the four places of the color jitter."""
FACTORS = slice(4, 8)
"""Columns of the factor of brightness, contrast, saturation and of the shift of hue (turns)."""
GRAY, SIGMA, SOLARIZE, FLIP = range(8, 12)
"""Columns of the further operations: 0 or 1, but the standard deviation of the blur in px."""
PARAMETERS = 12
_IDENTITY = np.array([BRIGHTNESS, CONTRAST, SATURATION, HUE, 1, 1, 1, 0, 0, 0, 0, 0], np.float32)

TINY = 1e-12
LUMA = (0.2989, 0.587, 0.114)
SOLARIZE_FROM = 128 / 255
IN_CACHE = 2**18
"""Bytes of views that a CPU augments at a time: they stay in its core's cache."""
BLUR_EXTENT = 3.0
"""The kernel of the blur reaches this many standard deviations of the strongest blur."""


class ViewAugmentSettings(Settings):
    """What one view does differently; see ``AugmentSettings``. None: as the others."""

    jitter: tuple[float, float, float, float] | None = None
    jitter_p: Share | None = None
    gray_p: Share | None = None
    blur_p: Share | None = None
    blur_sigma: tuple[float, float] | None = None
    solarize_p: Share | None = None
    flip_p: Share | None = None


class AugmentSettings(Settings):
    """Strengths and probabilities; the defaults are MoCo v2's.

    Attributes:
        jitter: strengths of brightness, contrast, saturation and hue.
        jitter_p: probability of the jitter.
        gray_p: probability of losing all color.
        blur_p: probability of the blur.
        blur_sigma: range of its standard deviation, px in a view of side ``blur_reference``.
        blur_reference: the blur grows with the side of the view; at this side it is as given.
        solarize_p: probability of inverting the bright half of the values.
        flip_p: probability of mirroring left and right.
        mean: of the channels, subtracted at the end.
        std: of the channels, divided by at the end.
        views: by name of a view, what it does differently (BYOL blurs its first view always and
            solarises only its second).
    """

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: Share = 0.8
    gray_p: Share = 0.2
    blur_p: Share = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_reference: Annotated[int, Field(ge=1)] = 224
    solarize_p: Share = 0.0
    flip_p: Share = 0.5
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    views: dict[str, ViewAugmentSettings] = {}

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not all(0 <= strength < math.inf for strength in self.jitter):
            raise ValueError("jitter must be four strengths of at least 0")
        if self.jitter[HUE] > 0.5:
            raise ValueError("jitter: the strength of hue must be at most 0.5")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1] < math.inf:
            raise ValueError("blur_sigma must be two growing positive numbers")
        if not all(value > 0 for value in self.std):
            raise ValueError("std must be positive")
        for name in self.views:
            self.of(name)  # checks the ranges of what the view changes
        return self

    def of(self, view: str) -> AugmentSettings:
        """The settings of one view."""
        own = self.views.get(view)
        changes = {} if own is None else own.model_dump(exclude_none=True)
        return AugmentSettings(**{**self.model_dump(exclude={"views"}), **changes})

    def by_view(self, names: Sequence[str]) -> dict[str, AugmentSettings]:
        """The settings of each of these views, which are all that a method has.

        Raises:
            InputError: ``views`` names another one.
        """
        unknown = [name for name in self.views if name not in names]
        if unknown:
            raise InputError(
                f"augment.views: no view '{unknown[0]}'; this method has {', '.join(names)}"
            )
        return {name: self.of(name) for name in names}


def draw(rng: np.random.Generator, settings: AugmentSettings, size: int) -> NDArray[np.float32]:
    """Draw the parameters of one view: float32 (P,).

    Always uses the same number of random numbers, so one probability does not shift the others.

    Args:
        rng: the view's stream.
        settings: strengths and probabilities.
        size: side of the view, px.
    """
    order = rng.permutation(4)
    uniform = rng.random(10).tolist()
    chance, strengths, spread = uniform[:5], uniform[5:9], settings.jitter
    low, high = settings.blur_sigma
    sigma = low + (high - low) * uniform[9]
    parameters = identity()
    parameters[ORDER] = order
    if chance[0] < settings.jitter_p:
        factors = parameters[FACTORS]
        for number in (BRIGHTNESS, CONTRAST, SATURATION):
            low, high = max(0.0, 1 - spread[number]), 1 + spread[number]
            factors[number] = low + strengths[number] * (high - low)
        factors[HUE] = (2 * strengths[HUE] - 1) * spread[HUE]
    parameters[GRAY] = chance[1] < settings.gray_p
    if chance[2] < settings.blur_p:
        parameters[SIGMA] = sigma * size / settings.blur_reference
    parameters[SOLARIZE] = chance[3] < settings.solarize_p
    parameters[FLIP] = chance[4] < settings.flip_p
    return parameters


def identity() -> NDArray[np.float32]:
    """Parameters that change nothing: float32 (P,)."""
    return _IDENTITY.copy()


def blur_radius(settings: AugmentSettings, size: int) -> int:
    """Reach of the blur's kernel in px: 3 standard deviations of the strongest blur."""
    sigma = settings.blur_sigma[1] * size / settings.blur_reference
    return max(0, min(math.ceil(BLUR_EXTENT * sigma), size - 1))


def apply(images: Tensor, parameters: Tensor, settings: AugmentSettings) -> Tensor:
    """Augment and normalize a batch on its device.

    Args:
        images: uint8 (B, 3, S, S), RGB.
        parameters: float32 (B, P) from ``draw``, on the same device.
        settings: of this view, with which the parameters were drawn.

    Returns:
        float32 (B, 3, S, S).
    """
    radius = blur_radius(settings, images.shape[-1])
    return _apply(images, parameters, radius, settings.mean, settings.std)


def apply_compiled(images: Tensor, parameters: Tensor, settings: AugmentSettings) -> Tensor:
    """``apply`` on an accelerator with its operations fused into few kernels.

    The first batch of every shape and reach of the blur is compiled, which takes about a minute.
    """
    radius = blur_radius(settings, images.shape[-1])
    return _fused()(images, parameters, radius, settings.mean, settings.std)


@functools.cache
def _fused() -> Callable[[Tensor, Tensor, int, Channels, Channels], Tensor]:
    return torch.compile(_apply, dynamic=False, fullgraph=True)


@torch.no_grad()
def _apply(
    images: Tensor, parameters: Tensor, radius: int, mean: Channels, std: Channels
) -> Tensor:
    # No settings here: views whose settings differ in probabilities alone share what is compiled.
    # The caller may be inside autocast; colors are not to be rounded to 8 bits of mantissa.
    with torch.autocast(images.device.type, enabled=False):
        # One plane a channel: most operations take the channels apart.
        x = images.to(torch.float32, memory_format=torch.contiguous_format)
        if _selects(x.device):
            count = max(1, IN_CACHE // x[:1].nbytes)
            parts = zip(torch.split(x, count), torch.split(parameters, count), strict=True)
            for part, own in parts:
                _chain(part, own, radius, mean, std)
        else:
            _chain(x, parameters, radius, mean, std)
    return x


def _chain(x: Tensor, parameters: Tensor, radius: int, mean: Channels, std: Channels) -> None:
    """All operations on float32 (B, 3, S, S) of 0..255, in place."""
    x.div_(255)
    _jitter(x, parameters)
    _change(x, parameters[:, GRAY] > 0, parameters, lambda x, _: _luma(x).expand_as(x))
    _change(x, parameters[:, SIGMA] > 0, parameters, lambda x, p: _blur(x, p[:, SIGMA], radius))
    _change(x, parameters[:, SOLARIZE] > 0, parameters, lambda x, _: _solarize(x))
    _change(x, parameters[:, FLIP] > 0, parameters, lambda x, _: x.flip(-1))
    x -= torch.tensor(mean, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    x /= torch.tensor(std, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)


def _change(
    x: Tensor, mask: Tensor, parameters: Tensor, operation: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace the masked samples of ``x`` by what the operation makes of them.

    An accelerator computes all samples: to ask it which are wanted would cost a synchronization.
    A CPU computes those that are wanted.
    """
    if _selects(x.device):
        rows = mask.nonzero()[:, 0]
        if len(rows) == len(x):
            x.copy_(operation(x, parameters))
        elif len(rows):
            x[rows] = operation(x[rows], parameters[rows])
    else:
        x.copy_(torch.where(mask.view(-1, 1, 1, 1), operation(x, parameters), x))


def _selects(device: torch.device) -> bool:
    return device.type == "cpu"


def _jitter(x: Tensor, parameters: Tensor) -> None:
    """The four color operations, in the order of each sample.

    Brightness, contrast and saturation are one formula. As hue comes once in every order, the
    batch passes through up to three of them, through hue, and through the rest of them.
    """
    hue_place = (parameters[:, ORDER] == HUE).to(torch.int64).argmax(1)
    for place in range(3):
        _blend_place(x, parameters, place, hue_place > place)
    _change(
        x,
        parameters[:, FACTORS][:, HUE] != 0,
        parameters,
        lambda x, p: _shift_hue(x, p[:, FACTORS][:, HUE]),
    )
    for place in range(1, 4):
        _blend_place(x, parameters, place, hue_place < place)


def _blend_place(x: Tensor, parameters: Tensor, place: int, active: Tensor) -> None:
    def operation(x: Tensor, p: Tensor) -> Tensor:
        kind = p[:, ORDER][:, place].to(torch.int64)
        return _blend(x, kind, p[:, FACTORS].gather(1, kind[:, None])[:, 0])

    kinds = parameters[:, ORDER][:, place].to(torch.int64)
    factors = parameters[:, FACTORS].gather(1, kinds[:, None])[:, 0]
    _change(x, active & (factors != 1), parameters, operation)


def _blend(x: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Mix with black (brightness), the mean gray (contrast) or the own gray (saturation)."""
    gray, kind = _luma(x), kind.view(-1, 1, 1, 1)
    mean = gray.mean((1, 2, 3), keepdim=True) * (kind == CONTRAST)
    other = torch.addcmul(mean, gray, (kind == SATURATION).to(x.dtype))
    return torch.lerp(other, x, factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def _shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV, keeping saturation and value.

    Choices are products with 0 and 1, since torch's ``where`` costs a CPU ten of them.
    """
    red, green, blue = x.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    not_red = (high - red).sign_()
    is_blue = (high - green).sign_().mul_(not_red)
    is_green = not_red - is_blue
    difference = torch.addcmul(green - blue, not_red, blue - green)
    difference.addcmul_(is_green, blue - red).addcmul_(is_blue, red - green)
    # Sixths of a turn from red; gray has no hue, any will do.
    hue = difference.div_(chroma.clamp_min(TINY))
    hue.add_(is_green, alpha=2).add_(is_blue, alpha=4).add_(6 * turns.view(-1, 1, 1))
    turned = torch.empty_like(x)
    for channel, opposite in enumerate((3, 5, 1)):
        # A channel is low within one sixth of the hue opposite to it, high beyond two.
        away = hue - opposite
        away.sub_((away / 6).round_(), alpha=6).abs_()
        share = away.neg_().add_(2).clamp_(0, 1)
        turned[:, channel] = torch.addcmul(high, chroma, share, value=-1)
    return turned


def _luma(x: Tensor) -> Tensor:
    """Gray values (B, 1, S, S), weighted as torchvision does."""
    red, green, blue = x.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _solarize(x: Tensor) -> Tensor:
    return torch.where(x >= SOLARIZE_FROM, 1 - x, x)


def _blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur, one kernel a sample; borders mirrored without repeating the edge."""
    distance = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel /= kernel.sum(1, keepdim=True)
    across = _filter_rows(x, kernel, radius)
    return _filter_rows(across.mT.contiguous(), kernel, radius).mT


def _filter_rows(x: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Each row of (B, C, H, W) with its sample's kernel (B, taps)."""
    count, channels, height, width = x.shape
    # A convolution by groups has a kernel for each of its channels, and a CPU takes 16 of them
    # at a time: strips of rows are made into channels, as rows do not need one another.
    strips = next(n for n in (4, 3, 2, 1) if height % n == 0)
    groups = count * channels * strips
    padded = F.pad(x, (radius, radius, 0, 0), mode="reflect")
    padded = padded.view(1, groups, height // strips, width + 2 * radius)
    own = kernel.repeat_interleave(channels * strips, 0)[:, None, None, :]
    return F.conv2d(padded, own, groups=groups).view(count, channels, height, width)
