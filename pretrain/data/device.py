"""The part of the data side that runs where the model is: cutting, then colors.

Where workers hand over decoded images instead of views (``device_crops``), the views are cut here.
An antialiased bilinear resize is linear and acts on rows and columns apart, so each view is
``Y · image · Xᵀ`` with one matrix for its rows and one for its columns: two batched matrix products
for many views at once, instead of a few small kernels for every single one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pretrain.data import augment
from pretrain.data.augment import AugmentSettings
from pretrain.data.plan import Batch, Sources
from pretrain.data.views import blank_views, resize

PADDED_BYTES = 256 * 2**20
"""How much memory padded images may take at a time; a batch is cut in parts of at most this."""


def views(
    batch: Batch,
    device: torch.device,
    settings: Mapping[str, AugmentSettings],
    sides: Mapping[str, int],
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
) -> dict[str, Tensor]:
    """The views of a batch as a model gets them.

    Args:
        batch: of the loader.
        device: of the model.
        settings: per crop name, with which its augmentation was drawn.
        sides: per crop name, px.
        dtype: of the result; colors are computed in float32.
        memory_format: of the result.
        compiled: fuse the chain of colors, see ``augment.apply_compiled``.

    Returns:
        per crop name, (B, 3, S, S) with the crop's own S, normalized.
    """
    images = {name: view.to(device, non_blocking=True) for name, view in batch.images.items()}
    if batch.sources is not None:
        images = cut(batch.sources.to(device), sides)
    change = augment.apply_compiled if compiled else augment.apply
    return {
        name: change(
            image, batch.augmentation[name].to(device, non_blocking=True), settings[name]
        ).to(dtype=dtype, memory_format=memory_format)
        for name, image in images.items()
    }


@torch.no_grad()
def cut(sources: Sources, sides: Mapping[str, int]) -> dict[str, Tensor]:
    """Cut all views on the device where the images are.

    On a CPU the same bytes as ``views.resize``; on an accelerator, which has weights of floats
    instead of 16 bits, within 1 of 255 of it.

    Args:
        sources: decoded images and windows.
        sides: of the views, px.

    Returns:
        per crop name, uint8 (B, 3, S, S) with the crop's own S.
    """
    if _one_by_one(sources.pixels.device):
        return _cut_one_by_one(sources, sides)
    return _cut_batched(sources, sides)


def _one_by_one(device: torch.device) -> bool:
    return device.type == "cpu"


def _halves(sources: Sources) -> list[tuple[int, dict[str, Tensor]]]:
    """The place of the first image, and the windows of the crops that are cut from it and on."""
    own = {name: w for name, w in sources.windows.items() if name not in sources.of_partner}
    others = {name: w for name, w in sources.windows.items() if name in sources.of_partner}
    halves = [(0, own), (len(sources.offsets) // 2, others)]
    return [(first, windows) for first, windows in halves if windows]


def _cut_one_by_one(sources: Sources, sides: Mapping[str, int]) -> dict[str, Tensor]:
    cuts = {name: blank_views(len(w), sides[name]) for name, w in sources.windows.items()}
    for first, crops in _halves(sources):
        for place in range(len(next(iter(crops.values())))):
            start = int(sources.offsets[first + place])
            width, height = sources.sizes[first + place].tolist()
            pixels = sources.pixels[start : start + 3 * width * height]
            image = pixels.view(height, width, 3).permute(2, 0, 1)
            for name, windows in crops.items():
                window = tuple(windows[place].tolist())
                resize(image, window, sides[name], out=cuts[name][place])
    return cuts


def _cut_batched(sources: Sources, sides: Mapping[str, int]) -> dict[str, Tensor]:
    device = sources.pixels.device
    # No size of an image is asked of the device, which would wait for it: the greatest that the
    # batch may have is known here.
    width, height = sources.greatest
    cuts = {
        name: torch.empty(
            len(windows), 3, sides[name], sides[name], dtype=torch.uint8, device=device
        )
        for name, windows in sources.windows.items()
    }
    at_a_time = max(1, PADDED_BYTES // (12 * width * height))
    with torch.autocast(device.type, enabled=False):
        for first, crops in _halves(sources):
            count = len(next(iter(crops.values())))
            for start in range(0, count, at_a_time):
                stop = min(start + at_a_time, count)
                images = _padded(sources, slice(first + start, first + stop), width, height)
                for name, windows in crops.items():
                    part = windows[start:stop]
                    cuts[name][start:stop] = _cut_part(images, part, sides[name])
    return cuts


def _cut_part(images: Tensor, windows: Tensor, size: int) -> Tensor:
    """A window (B, 4) of each of float32 (B, 3, height, width): uint8 (B, 3, size, size)."""
    x1, y1, x2, y2 = windows.unbind(1)
    columns = resize_matrix(x1, x2, size, images.shape[3])
    rows = resize_matrix(y1, y2, size, images.shape[2])
    # Rounded in between as well, as the CPU's arithmetic of bytes does.
    narrow = (images @ columns[:, None].mT).add_(0.5).floor_()
    view = (rows[:, None] @ narrow).add_(0.5)
    return view.clamp_(0, 255).to(torch.uint8)


def _padded(sources: Sources, part: slice, width: int, height: int) -> Tensor:
    """Images of one size, float32 (B, 3, height, width); beyond their own, any of their pixels."""
    device = sources.pixels.device
    own = sources.sizes[part]
    x = torch.arange(width, device=device).minimum(own[:, :1] - 1)
    y = torch.arange(height, device=device).minimum(own[:, 1:] - 1)
    pixel = y[:, :, None] * own[:, :1, None] + x[:, None, :]
    channel = torch.arange(3, device=device).view(1, 3, 1, 1)
    place = sources.offsets[part].view(-1, 1, 1, 1) + 3 * pixel[:, None] + channel
    return sources.pixels[place].to(torch.float32)


def resize_matrix(start: Tensor, stop: Tensor, size: int, length: int) -> Tensor:
    """The weights of an antialiased bilinear resize of [start, stop) to ``size`` values.

    A triangle about each output's center, as wide as the step between them but never narrower
    than a pixel; pixels outside the window weigh nothing, the others sum to 1. As Pillow's and
    torch's.

    Args:
        start: int (B,), first pixel of the windows.
        stop: int (B,), pixel after their last.
        size: values wanted.
        length: pixels of the whole.

    Returns:
        float32 (B, size, length).
    """
    scale = (stop - start).to(torch.float32) / size
    out = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    center = out * scale[:, None]
    pixel = torch.arange(length, device=start.device) - start[:, None]
    distance = pixel.to(torch.float32)[:, None, :] + 0.5 - center[:, :, None]
    weight = (1 - distance.abs() / scale.clamp_min(1)[:, None, None]).clamp_min_(0)
    inside = (pixel >= 0) & (pixel < (stop - start)[:, None])
    weight *= inside[:, None, :]
    return weight / weight.sum(2, keepdim=True)
