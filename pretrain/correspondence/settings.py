"""What determines the pairs of ``hcl correspond``; some of its arguments are made from this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.settings import Settings


class CorrespondSettings(Settings):
    """What determines the pairs, besides the encoder and the images.

    Attributes:
        neighbours: images each image is matched with.
        share: pairs with each neighbor, as a share of the image's own regions; at least one.
        max_regions: regions of an image, the first of its boxes.
        batch_size: views in one forward.
        precision: of the forwards.
        shard: images between two savings, so what a kill may cost.
    """

    neighbours: Annotated[int, Field(ge=1), Option("K")] = 10
    share: Annotated[float, Field(gt=0, le=1), Option("SHARE")] = 0.1
    max_regions: Annotated[int, Field(ge=1), Option("N")] = 100
    batch_size: Annotated[int, Field(ge=1), Option("N")] = 64
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    shard: Annotated[int, Field(ge=1), Option("N")] = 128
