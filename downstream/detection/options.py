"""What ``hcl detect`` was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Paths = tuple[Path, Path]


@dataclass(frozen=True)
class Options:
    """Of one transfer.

    Attributes:
        config: detectron2's YAML file.
        output: the result's folder.
        weights: a backbone in any layout of ``weights.backbone.read_backbone``; None takes
            MODEL.WEIGHTS
            of the config, and random initialisation where that is empty.
        train: annotations and images; None takes the config's DATASETS.
        val: likewise.
        labels: list of the training images that keep their labels; None chooses by HCL.LABELS.
        name: row of the table; None takes the pretraining run's name.
        form: of ``protocol_check.FORMS``; None takes what the config's name claims.
        overrides: KEY VALUE KEY VALUE ...
        overwrite: replace what the folder holds.
        resume: go on with the folder's unfinished transfer, which must be this very one.
        eval_only: a trained detector, which is measured and not trained.
        command: for the record.
    """

    config: Path
    output: Path
    weights: Path | None = None
    train: Paths | None = None
    val: Paths | None = None
    labels: Path | None = None
    name: str | None = None
    form: str | None = None
    overrides: Sequence[str] = ()
    overwrite: bool = False
    resume: bool = False
    eval_only: Path | None = None
    command: Sequence[str] = ()
