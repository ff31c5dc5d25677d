"""Reading files of weights; nothing in them is ever run.

Torch files are read with ``weights_only=True``, and pickles are refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.core.errors import InputError


def load_torch(path: Path) -> dict[str, Any]:
    """The content of a torch file that holds tensors and plain values alone.

    Raises:
        InputError: it is no torch file, or holds what only unpickling could restore.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{path}: a pickle, which may run any code when opened, is never opened; give the "
            "checkpoint it was made of"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "WeightsUnpickler error" in str(error) or "unsupported global" in str(error).lower():
            raise InputError(
                f"{path}: holds objects that only unpickling could restore, which may run any "
                "code; where you trust it, save its tensors alone: torch.save(the state_dict, FILE)"
            ) from None
        raise InputError(f"{path}: not a readable torch file of tensors") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError):
        raise InputError(f"{path}: not a readable torch file of tensors") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return content


def tensors_of(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in a torch file's content, which many save under ``state_dict`` or ``model``.

    Raises:
        InputError: there are none.
    """
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: no tensors, neither by itself nor under state_dict or model")
    return state


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its header.

    Raises:
        InputError: it cannot be read.
    """
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path}: reading it needs safetensors; pip install safetensors") from None
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
        return load_file(path), header
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
