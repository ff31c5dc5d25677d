"""The frozen networks that can be probed: of pretraining, of fine-tuning, and color alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from downstream.color_histogram import BINS, ColorHistogram
from downstream.retrieval.finetune.finetuned_model import is_finetuned, load_finetuned
from downstream.retrieval.finetune.network import Network
from downstream.retrieval.run_evaluation import row_name
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.run_files import CHECKPOINTS
from pretrain.pretrained import load_pretrained

COLOR_HISTOGRAM = "color-histogram"
"""In the place of a run."""


@dataclass(frozen=True)
class FrozenNetwork:
    """What makes features, and where it came from.

    Attributes:
        backbone: images (N, 3, H, W) to features (N, ``num_features``), in evaluation mode.
        name: row in tables.
        source: for messages: a checkpoint's path, or what else it is.
        size: side of the images that it was made for, px.
        mean: per channel, for images in [0, 1].
        std: likewise.
        identity: what two results of the same network share.
        facts: further provenance.
    """

    backbone: nn.Module
    name: str
    source: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: dict[str, Any]
    facts: dict[str, Any]


class _Features(nn.Module):
    """A fine-tuned network without its head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.num_features = network.head.in_features

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)[0]
        return features


def open_network(source: Path) -> FrozenNetwork:
    """A run folder or checkpoint of ``hcl pretrain`` or ``hcl retrieve train``, or the histogram.

    Raises:
        InputError: nothing there, damaged, or neither.
    """
    if str(source) == COLOR_HISTOGRAM:
        return FrozenNetwork(
            backbone=ColorHistogram(),
            name=COLOR_HISTOGRAM,
            source=COLOR_HISTOGRAM,
            size=64,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            identity={"features": f"histogram of {BINS}x{BINS}x{BINS} colors"},
            facts={"method": COLOR_HISTOGRAM, "step": 0},
        )
    if not source.exists():
        raise InputError(
            f"{source}: no such run or checkpoint; `{COLOR_HISTOGRAM}` stands for color alone"
        )
    if is_finetuned(source):
        tuned = load_finetuned(source)
        path = tuned.checkpoint.resolve()
        return FrozenNetwork(
            backbone=_Features(tuned.network),
            name=path.parents[1].name if path.parent.name == CHECKPOINTS else path.stem,
            source=str(tuned.checkpoint),
            size=tuned.settings.model.size,
            mean=tuned.network.architecture.mean,
            std=tuned.network.architecture.std,
            identity={"weights_sha256": sha256(tuned.checkpoint)},
            facts={
                "checkpoint": str(tuned.checkpoint),
                "method": tuned.settings.loss.geometry,
                "step": tuned.step,
            },
        )
    pretrained = load_pretrained(source)
    return FrozenNetwork(
        backbone=pretrained.backbone,
        name=row_name(pretrained),
        source=str(pretrained.checkpoint),
        size=pretrained.description.size,
        mean=pretrained.description.mean,
        std=pretrained.description.std,
        identity={"weights_sha256": sha256(pretrained.checkpoint)},
        facts={
            "checkpoint": str(pretrained.checkpoint),
            "method": pretrained.description.method,
            "step": pretrained.step,
        },
    )
