"""ORL's third stage (Xie et al. 2021, arXiv 2106.11952): BYOL of images and objects.

Three pairs of views, each with a predictor of its own: two crops of the image; an object and a
window around it; and two regions, of this image and of another, that earlier stages found to show
alike things (``data.pairs``). Regions are resized whole, and smaller than the image's crops.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pretrain.data.plan import Crop, Region
from pretrain.methods.base import Context, register
from pretrain.methods.bootstrap import Bootstrap, BootstrapSettings, Pair

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ORLSettings(BootstrapSettings):
    """Settings of ORL's third stage; the defaults are the official ones.

    Attributes:
        patch_size: side of a region's view, px.
        global_weight: of the pair of image crops; 0 leaves out a term, its predictor and views.
        intra_weight: of an object and the window around it.
        inter_weight: of regions of two images.
    """

    patch_size: Annotated[int, Field(ge=1)] = 96
    global_weight: Weight = 1.0
    intra_weight: Weight = 1.0
    inter_weight: Weight = 1.0

    @model_validator(mode="after")
    def _some_term(self) -> ORLSettings:
        if not self.global_weight + self.intra_weight + self.inter_weight > 0:
            raise ValueError("at least one of the three weights must be positive")
        return self


@register("orl")
class ORL(Bootstrap):
    """Object-level representation learning: the terms ``global``, ``intra`` and ``inter``."""

    settings_class = ORLSettings

    def __init__(self, settings: ORLSettings, context: Context) -> None:
        def patch(name: str, region: Region) -> Crop:
            return Crop(name, region, False, settings.patch_size)

        pairs = {
            "global": Pair(
                Crop("global_1", "image", True),
                Crop("global_2", "image", True),
                settings.global_weight,
            ),
            "intra": Pair(
                patch("intra_1", "object"),
                patch("intra_2", "object_jittered"),
                settings.intra_weight,
            ),
            "inter": Pair(
                patch("inter_1", "pair_query"),
                patch("inter_2", "pair_key"),
                settings.inter_weight,
            ),
        }
        super().__init__(settings, context, {n: p for n, p in pairs.items() if p.weight > 0})
