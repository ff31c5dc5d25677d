"""The head of MoCo's C4 detectors, registered with detectron2 under their name for it."""

from __future__ import annotations

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

NORM = "norm"
"""Name of the added module in ``res5``; pretrained weights have nothing for it."""

EXTRA_NORM_HEAD = "Res5ROIHeadsExtraNorm"


class Res5ROIHeadsExtraNorm(Res5ROIHeads):  # type: ignore[misc]
    """``Res5ROIHeads`` with one more norm of kind ``RESNETS.NORM`` behind res5.

    MoCo (He et al. 2020), appendix: the pretrained res5 ends without a norm of its own, so one is
    added before the predictors.
    """

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """The parent's parts, with the norm appended to res5."""
        parts: dict[str, Any] = super().from_config(cfg, input_shape)
        channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8
        norm = get_norm(cfg.MODEL.RESNETS.NORM, channels)
        blocks: nn.Sequential = parts["res5"]
        blocks.add_module(NORM, norm)
        return parts


def register() -> None:
    """Make the head known to detectron2, unless someone's code already has."""
    if EXTRA_NORM_HEAD not in ROI_HEADS_REGISTRY:
        ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
