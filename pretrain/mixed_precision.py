"""The precision of the encoders' forwards, and which of them a device is fast in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from pretrain import distributed

Precision = Literal["fp32", "bf16", "fp16"]

PRECISIONS: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own.

    CPUs with AMX or AVX512-BF16, and GPUs of compute capability 8.0 or more (NVIDIA's Ampere).
    Others emulate it, a CPU with AVX2 at a twentieth of its speed in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def choose_precision(asked: Precision | Literal["auto"], device: torch.device) -> Precision:
    """What ``train.precision`` means on the devices of all processes.

    Args:
        asked: ``auto``: bf16 if every process' device has it natively, else fp32.
        device: of this process.
    """
    if asked != "auto":
        return asked
    return "fp32" if distributed.any_rank(not native_bfloat16(device), device) else "bf16"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A block whose forwards are of that precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])
