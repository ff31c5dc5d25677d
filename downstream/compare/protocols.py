"""How a detector was trained and tested, in the few words by which papers differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from downstream.compare.collect import CONFIG_FILE, Measured
from pretrain.settings import Settings


class DetectionProtocol(Settings):
    """What must agree for two average precisions to be comparable; None is not known.

    Attributes:
        data: stem of the test annotations' file.
        model: depth and kind of the backbone.
        head: of the boxes: convolutions and linear layers, or ``res5``.
        norm: of every part.
        schedule: iterations.
        batch: images a step.
        input: order of the colours.
    """

    data: str | None = None
    model: str | None = None
    head: str | None = None
    norm: str | None = None
    schedule: str | None = None
    batch: str | None = None
    input: str | None = None

    def differences(self, other: DetectionProtocol) -> dict[str, tuple[str, str]]:
        """What both know and have otherwise."""
        mine, theirs = self.model_dump(), other.model_dump()
        return {
            key: _unequal_parts(mine[key], theirs[key])
            for key in mine
            if None not in (mine[key], theirs[key]) and mine[key] != theirs[key]
        }

    def agreements(self, other: DetectionProtocol) -> int:
        """Number of things that both know and have alike."""
        mine, theirs = self.model_dump(), other.model_dump()
        return sum(mine[key] is not None and mine[key] == theirs[key] for key in mine)


def protocol_of(measured: Measured) -> DetectionProtocol:
    """Of an own result: what ``result.json`` says, else what detectron2's config beside it says."""
    said = measured.result.protocol
    found = _of_config(measured.folder / CONFIG_FILE)
    if said.get("iterations") is not None:
        found["schedule"] = f"{said['iterations']} iterations"
    if said.get("images_per_batch") is not None:
        found["batch"] = f"{said['images_per_batch']} images"
    if said.get("backbone_norm") is not None and "norm" not in found:
        found["norm"] = f"backbone {_norm(said['backbone_norm'])}"
    annotations = _at(measured.result.provenance, "val", "annotations")
    if isinstance(annotations, str):
        found["data"] = Path(annotations).stem
    direct = {key: said[key] for key in ("head", "norm", "input", "model") if key in said}
    found |= {key: value for key, value in direct.items() if isinstance(value, str)}
    return DetectionProtocol(**found)


def _of_config(path: Path) -> dict[str, str]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    model = _at(config, "MODEL")
    if not isinstance(model, dict):
        return {}
    fpn = "fpn" in str(_at(model, "BACKBONE", "NAME"))
    found = {"model": f"R{_at(model, 'RESNETS', 'DEPTH')}-{'FPN' if fpn else 'C4'}"}
    norms = {"backbone": _at(model, "RESNETS", "NORM")}
    if fpn:
        box = _at(model, "ROI_BOX_HEAD") or {}
        found["head"] = f"{box.get('NUM_CONV', 0)}conv{box.get('NUM_FC', 0)}fc"
        norms["FPN"] = _at(model, "FPN", "NORM")
        norms["box head"] = box.get("NORM")
        if model.get("MASK_ON"):
            norms["mask head"] = _at(model, "ROI_MASK_HEAD", "NORM")
    else:
        # The batch norm after res5 is a head of its own name in MoCo's and DenseCL's code.
        extra = "Norm" in str(_at(model, "ROI_HEADS", "NAME"))
        found["head"] = "res5 with norm" if extra else "res5"
    found["norm"] = ", ".join(f"{part} {_norm(norm)}" for part, norm in norms.items())
    order = _at(config, "INPUT", "FORMAT")
    return found | ({"input": order} if isinstance(order, str) else {})


def _unequal_parts(mine: str, theirs: str) -> tuple[str, str]:
    """Of two lists, what is not in both."""
    one, two = mine.split(", "), theirs.split(", ")
    left = ", ".join(part for part in one if part not in two)
    return left or "no more", ", ".join(part for part in two if part not in one) or "no more"


def _norm(name: Any) -> str:
    return str(name) if name else "none"


def _at(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values
