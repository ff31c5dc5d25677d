"""The settings of the k-NN probe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pretrain.core.settings import Settings
from pretrain.datasets.source import DataSettings


class ProbeSettings(Settings):
    """k-NN classification with the backbone as it is now, every so many steps and at the end.

    Attributes:
        every: steps between two probes.
        data: labeled images whose features are the bank.
        test: labeled images that are classified; None: every fifth image of ``data``, which then
            is not in the bank.
        crops: ``object``: every labeled box, exactly, resized to a square. ``image``: every
            image whose boxes have one category, as those of a folder of class folders.
        k: neighbors that vote; the whole bank where it is smaller.
        temperature: τ of the votes exp(cos/τ).
        size: side of the crops, px; None: that of the run's views.
        batch_size: crops in one forward, per process.
        max_items: crops at most in the bank, and as many to classify; spread evenly over the set.
    """

    every: Annotated[int, Field(ge=1)] = 1000
    data: DataSettings
    test: DataSettings | None = None
    crops: Literal["object", "image"] = "object"
    k: Annotated[int, Field(ge=1)] = 200
    temperature: Annotated[float, Field(gt=0)] = 0.1
    size: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 256
    max_items: Annotated[int, Field(ge=1)] = 20000
