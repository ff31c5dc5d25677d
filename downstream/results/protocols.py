"""How a backbone was put to use and tested, in the few words by which papers differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from downstream.results.collect import ResultFile
from pretrain.core.run_files import CONFIG
from pretrain.core.settings import Settings, parse


class TransferProtocol(Settings):
    """What must agree for two numbers to be comparable; None is not known or has no meaning.

    Attributes:
        data: the test set: stem of a detector's annotation file, name of a retrieval set.
        model: depth and kind of a detector's backbone; timm's name of an embedding's.
        head: of the boxes: convolutions and linear layers, or ``res5``.
        norm: of every part.
        schedule: iterations or steps.
        batch: images a step.
        input: order of the colors.
        dim: of an embedding that is ranked.
        resize: shorter side of a test image before its center is cut out, px.
    """

    data: str | None = None
    model: str | None = None
    head: str | None = None
    norm: str | None = None
    schedule: str | None = None
    batch: str | None = None
    input: str | None = None
    dim: int | None = None
    resize: int | None = None

    def agreements(self, other: TransferProtocol) -> int:
        """Number of things that both know and have alike."""
        mine, theirs = self.model_dump(), other.model_dump()
        return sum(mine[key] is not None and mine[key] == theirs[key] for key in mine)


def differences(
    own: TransferProtocol, published: Sequence[TransferProtocol]
) -> dict[str, tuple[str, str]]:
    """What is known of ``own`` and of ``published``, and is in none of these as it is in ``own``.

    Returns:
        By name the own value and the published ones; of lists only the parts that differ.
    """
    found = {}
    for key, mine in own.model_dump().items():
        theirs = list(dict.fromkeys(v for p in published if (v := getattr(p, key)) is not None))
        if mine is not None and theirs and mine not in theirs:
            single = len(theirs) == 1 and isinstance(mine, str)
            found[key] = (
                _unequal_parts(mine, theirs[0])
                if single
                else (str(mine), " or ".join(map(str, theirs)))
            )
    return found


def metric_of(measured: ResultFile) -> str:
    """What a detector's AP is: ``coco``, ``lvis``, ``voc07`` or ``voc``.

    Results that do not say it are of COCO's metric, unless their set is known for another.
    """
    said = measured.result.protocol.get("metric")
    if isinstance(said, str):
        return said
    data = _annotations(measured)
    return "voc07" if data.startswith("voc_2007") else "lvis" if "lvis" in data else "coco"


def measured_on(measured: ResultFile) -> tuple[str, ...]:
    """What two results must share for one to be better than the other."""
    said, task = measured.result.protocol, measured.result.task
    keys: tuple[str, ...] = ("val_annotations_sha256",)
    if task == "retrieval":
        keys = ("annotations_sha256", "data", "data_fingerprint")
    elif task == "probe":
        keys = ("labels", "train_fingerprint", "val_fingerprint")
    metric = metric_of(measured) if task == "detection" else ""
    return (task, metric, *(str(said.get(key)) for key in keys))


def protocol_of(measured: ResultFile) -> TransferProtocol:
    """Of an own detector, as its ``result.json`` says, else detectron2's config beside it."""
    said = measured.result.protocol
    found = _of_config(measured.folder / CONFIG)
    if said.get("iterations") is not None:
        found["schedule"] = f"{said['iterations']} iterations"
    if said.get("images_per_batch") is not None:
        found["batch"] = f"{said['images_per_batch']} images"
    if said.get("backbone_norm") is not None and "norm" not in found:
        found["norm"] = f"backbone {_norm(said['backbone_norm'])}"
    if data := _annotations(measured):
        found["data"] = data
    direct = {key: said[key] for key in ("head", "norm", "input", "model") if key in said}
    found |= {key: value for key, value in direct.items() if isinstance(value, str)}
    return parse(TransferProtocol, found, source=str(measured.folder))


def retrieval_protocol_of(measured: ResultFile, space: str) -> TransferProtocol:
    """Of an own fine-tuned embedding, ranked in one of its spaces such as ``head/euclidean``."""
    said, facts = measured.result.protocol, measured.result.provenance
    values = {
        "data": said.get("data"),
        "model": facts.get("backbone"),
        "dim": said.get("dim") if space.startswith("head/") else facts.get("features"),
        "resize": said.get("resize"),
        "schedule": None if facts.get("step") is None else f"{facts['step']} steps",
    }
    return parse(TransferProtocol, values, source=str(measured.folder))


def _annotations(measured: ResultFile) -> str:
    """Stem of a detector's annotation file; empty where it is not recorded."""
    file = _at(measured.result.provenance, "val", "annotations")
    return Path(file).stem if isinstance(file, str) else ""


def _of_config(path: Path) -> dict[str, str]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    model = _at(config, "MODEL")
    if not isinstance(model, dict):
        return {}
    fpn = "fpn" in str(_at(model, "BACKBONE", "NAME"))
    timm = _at(config, "HCL", "TIMM", "NAME")
    network = timm or f"R{_at(model, 'RESNETS', 'DEPTH')}"
    found = {"model": f"{network}-{'FPN' if fpn else 'C4'}"}
    norm = _at(config, "HCL", "TIMM", "NORM") if timm else _at(model, "RESNETS", "NORM")
    norms = {"backbone": norm}
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
