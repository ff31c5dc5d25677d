"""The form a config claims by the end of its name, and refusing overrides that would break it.

``_ssl`` is the form of the self-supervised papers (DenseCL, ORL: their ``*_infomin`` and
``*_C4_*_moco`` files), ``_stock`` detectron2's own. Any other config is free.
"""

from __future__ import annotations

from typing import Any

from downstream.detection.model.config import get, norm_key, norms
from downstream.detection.model.heads import EXTRA_NORM_HEAD
from pretrain.core.errors import InputError

FORMS = ("ssl", "stock", "free")
SYNCHRONIZED = ("SyncBN", "nnSyncBN", "naiveSyncBN")


def claimed(stem: str) -> str:
    """The form that a config's file name claims."""
    return next((form for form in FORMS if stem.endswith(f"_{form}")), "free")


def check_form(config: Any, form: str) -> None:
    """Check that the resolved config is of the form.

    Raises:
        InputError: naming every key that is not and the value to set.
    """
    wanted = {"ssl": _ssl, "stock": _stock, "free": _nothing}[form](config)
    faults = [
        f"{key} is {get(config, key)!r}: set it to {' or '.join(map(str, values))}"
        for key, values in wanted.items()
        if get(config, key) not in values
    ]
    if faults:
        raise InputError(
            f"not the {form} form of the protocol: {'; '.join(faults)}; or leave the protocol on "
            "purpose with --form free"
        )


def warnings(config: Any) -> list[str]:
    """What self-supervised weights are known to suffer from, whatever the form."""
    found = []
    if get(config, norm_key(config)) == "FrozenBN":
        found.append("frozen batch norm: not comparable with self-supervised papers")
    elif config.MODEL.BACKBONE.FREEZE_AT:
        stages = config.MODEL.BACKBONE.FREEZE_AT
        found.append(f"FREEZE_AT {stages}: the first {stages} stages stay as they were pretrained")
    return found


def _ssl(config: Any) -> dict[str, tuple[Any, ...]]:
    wanted: dict[str, tuple[Any, ...]] = dict.fromkeys(norms(config), SYNCHRONIZED)
    wanted["MODEL.BACKBONE.FREEZE_AT"] = (0,)
    wanted["TEST.PRECISE_BN.ENABLED"] = (True,)
    wanted["INPUT.FORMAT"] = ("RGB",)
    wanted["MODEL.RESNETS.STRIDE_IN_1X1"] = (False,)
    if "fpn" in config.MODEL.BACKBONE.NAME:
        wanted["MODEL.ROI_BOX_HEAD.NUM_CONV"] = (4,)
        wanted["MODEL.ROI_BOX_HEAD.NUM_FC"] = (1,)
    else:
        wanted["MODEL.ROI_HEADS.NAME"] = (EXTRA_NORM_HEAD,)
    return wanted


def _stock(config: Any) -> dict[str, tuple[Any, ...]]:
    wanted: dict[str, tuple[Any, ...]] = dict.fromkeys(norms(config), ("",))
    wanted[norm_key(config)] = ("FrozenBN",)
    wanted["MODEL.BACKBONE.FREEZE_AT"] = (2,)
    wanted["TEST.PRECISE_BN.ENABLED"] = (False,)
    if "fpn" in config.MODEL.BACKBONE.NAME:
        wanted["MODEL.ROI_BOX_HEAD.NUM_CONV"] = (0,)
        wanted["MODEL.ROI_BOX_HEAD.NUM_FC"] = (2,)
    else:
        wanted["MODEL.ROI_HEADS.NAME"] = ("Res5ROIHeads",)
    return wanted


def _nothing(_config: Any) -> dict[str, tuple[Any, ...]]:
    return {}
