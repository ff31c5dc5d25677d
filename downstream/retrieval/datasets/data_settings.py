"""From the ``data`` section of a configuration to labeled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from downstream.retrieval.datasets import class_folders, crops
from downstream.retrieval.datasets.dataset_specs import KNOWN
from downstream.retrieval.datasets.labeled_images import LabeledImages, coarse, within_training
from pretrain.core.settings import Settings


class DataSettings(Settings):
    """Which images, and what each of them is.

    Attributes:
        name: ``cub``, ``cars``, ``sop``, ``inshop``, ``grocery``; ``folder``, any folder of class
            folders; ``crops``, the objects of a COCO-format set.
        root: folder of the set; of the images for ``crops``.
        annotations: COCO-format instances, for ``crops``.
        classes: for ``crops`` and ``grocery``: ``fine``, the categories, or ``coarse``, their
            supercategories.
        train_classes: for ``folder`` and ``crops``: how many classes, the first, are trained on;
            None: half of them.
        validation: leave the test classes out, train on the first half of the training classes
            and test on the others: to choose settings.
        min_side: for ``crops``: px, boxes with a shorter side are left out.
        context: for ``crops``: share of its extent by which a box grows on every side.
        workers: processes that decode images; 0: the main one.
    """

    name: Literal["cub", "cars", "sop", "inshop", "grocery", "folder", "crops"]
    root: str
    annotations: str | None = None
    classes: crops.Classes = "fine"
    train_classes: Annotated[int, Field(ge=1)] | None = None
    validation: bool = False
    min_side: Annotated[float, Field(ge=0)] = 16.0
    context: Annotated[float, Field(ge=0)] = 0.1
    workers: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _consistent(self) -> DataSettings:
        if (self.name == "crops") != (self.annotations is not None):
            raise ValueError("name=crops and 'annotations' need each other")
        if self.classes == "coarse" and self.name not in ("crops", "grocery"):
            raise ValueError(
                f"'classes': {self.name} has no coarse classes; crops and grocery have"
            )
        if self.train_classes is not None and self.name in KNOWN:
            raise ValueError(f"'train_classes' is fixed by the protocol of {self.name}")
        return self


def open_images(settings: DataSettings) -> LabeledImages:
    """Read the set.

    Raises:
        InputError: it is not there or not as it should be.
    """
    images = _read(settings)
    if settings.validation:
        images = within_training(images)
    if settings.classes == "coarse" and settings.name != "crops":
        images = coarse(images)  # after the division, which is then that of the fine classes
    return images


def _read(settings: DataSettings) -> LabeledImages:
    root = Path(settings.root).expanduser()
    if settings.name in KNOWN:
        return KNOWN[settings.name].read(root)
    if settings.name == "folder":
        return class_folders.read(root, settings.train_classes)
    assert settings.annotations is not None, "checked by the settings"
    return crops.read(
        Path(settings.annotations).expanduser(),
        root,
        classes=settings.classes,
        train_classes=settings.train_classes,
        min_side=settings.min_side,
        context=settings.context,
    )
