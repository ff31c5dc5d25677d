"""Native detectron2 configs: loading, overriding, and what is set from the data and machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from downstream.detection.coco.sets import CocoSet
from pretrain.core.errors import InputError
from pretrain.core.text import suggest

TRAIN, VAL = "hcl_train", "hcl_val"
TIMM_FPN = "build_timm_fpn_backbone"
"""Value of MODEL.BACKBONE.NAME for a network of timm with an FPN."""

TIMM_OPTIONS = "HCL.TIMM.OPTIONS"
TIMM_NORMS = ("BN", "SyncBN", "FrozenBN")
# Keys that say where and when, not what is computed.
CIRCUMSTANCES = ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")


def load_config(path: Path, overrides: Sequence[str]) -> Any:
    """Merge a YAML file and ``KEY VALUE`` pairs into detectron2's defaults.

    ``MODEL.DEVICE`` is ``auto`` unless something sets it. YAML is loaded safely. Keys under
    ``HCL`` are this project's:

    - ``ACCUMULATE``: parts of a step, each IMS_PER_BATCH / ACCUMULATE images;
    - ``LABELS.PERCENT``: of the training images, chosen by ``LABELS.SEED``;
    - ``TIMM``: the network where MODEL.BACKBONE.NAME is ``TIMM_FPN``: timm's ``NAME``, the
      ``OPTIONS`` of its constructor, and ``NORM``, what becomes of its batch norms.

    Raises:
        InputError: unreadable file, unknown key, wrong type, or a key without a value.
    """
    from detectron2.config import CfgNode, get_cfg

    config = get_cfg()
    config.MODEL.DEVICE = "auto"
    config.HCL = CfgNode({"ACCUMULATE": 1, "LABELS": {"PERCENT": 100.0, "SEED": 0}})
    config.HCL.TIMM = CfgNode({"NAME": "", "NORM": "BN"})
    config.HCL.TIMM.OPTIONS = CfgNode({}, new_allowed=True)
    if len(overrides) % 2:
        raise InputError(f"overrides are pairs KEY VALUE; '{overrides[-1]}' stands alone")
    _merge(config, str(path), lambda: config.merge_from_file(str(path), allow_unsafe=False))
    for place in range(0, len(overrides), 2):
        pair = list(overrides[place : place + 2])
        merge = partial(config.merge_from_list, pair)
        if pair[0] == TIMM_OPTIONS or pair[0].startswith(f"{TIMM_OPTIONS}."):
            merge = partial(_set_option, config, *pair)
        _merge(config, f"override '{' '.join(pair)}'", merge)
    return config


def adapt(
    config: Any, train: CocoSet | None, val: CocoSet, output: Path, world: int = 1
) -> list[str]:
    """Set what follows from the data and the machine, and freeze the config.

    Args:
        config: changed in place.
        train: None where nothing is trained.
        val: test set.
        output: result folder.
        world: number of processes.

    Returns:
        A sentence for each thing set otherwise than the config said.

    Raises:
        InputError: config, data and machine do not go together.
    """
    said = []
    classes = len(val.category_ids)
    for head in (config.MODEL.ROI_HEADS, config.MODEL.RETINANET):
        head.NUM_CLASSES = classes
    said.append(f"{classes} categories, from {(train or val).annotations.name}")
    if config.MODEL.KEYPOINT_ON or config.MODEL.LOAD_PROPOSALS:
        raise InputError("keypoints and precomputed proposals are not part of this transfer")
    if config.MODEL.MASK_ON:
        val.require_masks()
    if train is not None:
        said += _adapt_training(config, train, val)
    if config.SEED < 0:
        config.SEED = 0
        said.append("no SEED in the config: SEED is 0")
    said += _set_device(config)
    if config.SOLVER.AMP.ENABLED and not config.MODEL.DEVICE.startswith("cuda"):
        # detectron2 answers it with a failed assertion.
        raise InputError(
            f"SOLVER.AMP.ENABLED needs a CUDA device, not '{config.MODEL.DEVICE}'; set it to False"
        )
    if train is not None:
        _check_parts(config, world)
    config.DATASETS.TRAIN, config.DATASETS.TEST = (TRAIN,), (VAL,)
    config.OUTPUT_DIR = str(output)
    config.freeze()
    return said


def uses_timm(config: Any) -> bool:
    """Whether the backbone is the network of ``HCL.TIMM``."""
    return bool(config.MODEL.BACKBONE.NAME == TIMM_FPN)


def norm_key(config: Any) -> str:
    """The key that says which norm the backbone has."""
    return "HCL.TIMM.NORM" if uses_timm(config) else "MODEL.RESNETS.NORM"


def get(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def norms(config: Any) -> dict[str, str]:
    """The norm of every part of the detector that has one: keys of the config and its values."""
    model = config.MODEL
    key = norm_key(config)
    found = {key: get(config, key)}
    if "fpn" in model.BACKBONE.NAME:
        found["MODEL.FPN.NORM"] = model.FPN.NORM
        found["MODEL.ROI_BOX_HEAD.NORM"] = model.ROI_BOX_HEAD.NORM
        if model.MASK_ON:
            found["MODEL.ROI_MASK_HEAD.NORM"] = model.ROI_MASK_HEAD.NORM
    return found


def as_yaml(config: Any) -> str:
    """The config for plain detectron2: without ``HCL`` where that says nothing."""
    text: str = config.dump()
    content = yaml.safe_load(text)
    own = content.pop("HCL")
    if own["ACCUMULATE"] == 1 and own["LABELS"]["PERCENT"] == 100 and not own["TIMM"]["NAME"]:
        return str(yaml.safe_dump(content))
    return text


def _adapt_training(config: Any, train: CocoSet, val: CocoSet) -> list[str]:
    said = []
    if (train.category_ids, train.category_names) != (val.category_ids, val.category_names):
        raise InputError(
            f"{val.annotations}: its categories are not those of {train.annotations}; "
            "both must list the same ids and names"
        )
    if not any(True for _ in train.objects()):
        raise InputError(f"{train.annotations}: no object to train on (crowds do not count)")
    if config.MODEL.MASK_ON:
        train.require_masks()
        if config.INPUT.MASK_FORMAT == "polygon" and train.uses_rle():
            config.INPUT.MASK_FORMAT = "bitmask"
            said.append("masks are run-length coded: INPUT.MASK_FORMAT is bitmask")
    steps = tuple(step for step in config.SOLVER.STEPS if step < config.SOLVER.MAX_ITER)
    stepwise = config.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    if stepwise and steps != tuple(config.SOLVER.STEPS):
        config.SOLVER.STEPS = steps
        said.append(f"SOLVER.STEPS is {steps}: the others lie beyond MAX_ITER")
    return said


def _check_parts(config: Any, world: int) -> None:
    parts, batch = config.HCL.ACCUMULATE, config.SOLVER.IMS_PER_BATCH
    if parts < 1 or batch % (parts * world):
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {batch}: it must be a multiple of HCL.ACCUMULATE ({parts}) "
            f"times the processes ({world})"
        )
    synchronized = [k for k, norm in norms(config).items() if norm in ("SyncBN", "nnSyncBN")]
    # timm's batch norms have no counterpart of detectron2's own synchronization.
    other = "BN" if synchronized[:1] == ["HCL.TIMM.NORM"] else "naiveSyncBN"
    if world > 1 and synchronized and not str(config.MODEL.DEVICE).startswith("cuda"):
        raise InputError(
            f"{synchronized[0]} is SyncBN, which torch has on CUDA alone where there are several "
            f"processes; on the CPU set it to {other}, or use one process"
        )


def digest(config: Any, without: Sequence[str] = ()) -> str:
    """A hexadecimal digest of what the config computes, leaving out keys ``without``."""
    plain = yaml.safe_load(config.dump())
    if not uses_timm(config):
        # Results of before there was this key keep their digest.
        plain["HCL"].pop("TIMM")
    for key in (*CIRCUMSTANCES, *without):
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        node.pop(last)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _merge(config: Any, source: str, merge: Callable[[], None]) -> None:
    try:
        merge()
    except (
        yaml.YAMLError,
        AssertionError,
        AttributeError,
        KeyError,
        OSError,
        ValueError,
    ) as error:
        # yacs reports an unknown key by a KeyError or an AssertionError, with one text.
        reason = " ".join(str(error).strip("'").split())
        if reason.startswith("Non-existent"):
            reason = _unknown(reason, config)
        raise InputError(f"{source}: {reason or 'not a detectron2 config'}") from None


def _set_option(config: Any, key: str, value: str) -> None:
    """``HCL.TIMM.OPTIONS`` or one of them; detectron2 takes no new key from an override."""
    from detectron2.config import CfgNode

    content, name = yaml.safe_load(value), key.removeprefix(TIMM_OPTIONS).removeprefix(".")
    if name:
        content = {**config.HCL.TIMM.OPTIONS, name: content}
    elif not isinstance(content, dict):
        raise ValueError("needs options by name, such as {stem_width: 16}")
    config.HCL.TIMM.OPTIONS = CfgNode(content, new_allowed=True)


def _set_device(config: Any) -> list[str]:
    import torch

    wanted = str(config.MODEL.DEVICE)
    available = torch.cuda.is_available()
    if wanted == "auto":
        config.MODEL.DEVICE = "cuda" if available else "cpu"
        return [] if available else ["no CUDA device: training on the CPU"]
    if wanted.startswith("cuda") and not available:
        raise InputError("MODEL.DEVICE is cuda and there is none here; set it to auto or cpu")
    return []


def _unknown(message: str, config: Any) -> str:
    key = message.rpartition(" ")[2]
    hint = suggest(key, _keys(config), "see detectron2/config/defaults.py", cutoff=0.5)
    return f"unknown key '{key}': {hint}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in node.items():
        keys += _keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return keys
