"""Refusing weights that the detector would use wrongly, and proving that it took them."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn

from pretrain.errors import InputError
from pretrain.export.header import DEPTH, DetectionWeights
from pretrain.export.names import detectron2_name

# Batch norms that compute, in evaluation, what the pretrained ones do.
BATCH_NORMS = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "FrozenBN")


def check_tensors(weights: DetectionWeights) -> None:
    """Check the file against the network its header names.

    Raises:
        InputError: a tensor is missing, is foreign (a projection head, a classifier), or has
            another shape.
    """
    backbone = weights.header.backbone
    if backbone not in DEPTH:
        raise InputError(f"{weights.path}: unknown backbone '{backbone}'")
    with torch.device("meta"):
        state = getattr(torchvision.models, backbone)(weights=None).state_dict()
    expected = {
        detectron2_name(name): value.shape
        for name, value in state.items()
        if not name.startswith("fc.")
    }
    remedy = "export the run again with `hcl export RUN --to detectron2`"
    foreign = sorted(set(weights.tensors) - set(expected))
    if foreign:
        raise InputError(
            f"{weights.path}: {len(foreign)} tensors are not part of {backbone}, such as "
            f"'{foreign[0]}' (a projection head or classifier?); {remedy}"
        )
    missing = sorted(set(expected) - set(weights.tensors))
    if missing:
        raise InputError(
            f"{weights.path}: {len(expected) - len(missing)}/{len(expected)} tensors of "
            f"{backbone}; missing '{missing[0]}'; {remedy}"
        )
    for name, shape in expected.items():
        if weights.tensors[name].shape != shape:
            raise InputError(
                f"{weights.path}: '{name}' has shape {tuple(weights.tensors[name].shape)}, "
                f"{backbone} needs {tuple(shape)}; {remedy}"
            )


def check_config(weights: DetectionWeights, config: Any) -> None:
    """Check that the detector will feed and wire the backbone as in pretraining.

    Raises:
        InputError: naming every key that differs and the value to set.
    """
    faults = []
    for key, wanted in weights.header.config.items():
        found = _get(config, key)
        if key == "MODEL.RESNETS.NORM":
            if found not in BATCH_NORMS:
                faults.append(f"{key} is '{found}', not a batch norm: set it to SyncBN or BN")
        elif not _equal(found, wanted):
            faults.append(f"{key} is {found}: set it to {_value(wanted)}")
    if faults:
        raise InputError(
            f"{weights.path}: pretrained otherwise than the config says: {'; '.join(faults)}"
        )


def check_loaded(weights: DetectionWeights, model: nn.Module) -> int:
    """Check that each tensor of the file stands, bit for bit, in exactly one place of the model.

    Returns:
        The number of tensors.

    Raises:
        InputError: one does not.
    """
    state = model.state_dict()
    count = 0
    for name, value in weights.tensors.items():
        places = [key for key in state if key == name or key.endswith(f".{name}")]
        if not places and name.endswith(".num_batches_tracked"):
            continue  # a frozen batch norm does not count
        if len(places) != 1 or not torch.equal(state[places[0]].cpu(), value):
            raise InputError(
                f"{weights.path}: tensor '{name}' was not loaded into the detector; "
                "is MODEL.BACKBONE.NAME a plain ResNet of MODEL.RESNETS?"
            )
        count += 1
    return count


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(wanted)
        # Configs write pixel statistics with three decimals.
        return same and all(abs(a - b) < 2e-3 for a, b in zip(found, wanted, strict=True))
    return bool(found == wanted)


def _value(wanted: Any) -> str:
    if isinstance(wanted, list | tuple):
        return "[" + ", ".join(f"{value:.3f}" for value in wanted) + "]"
    return str(wanted)
