"""BYOL (Grill et al. 2020, arXiv 2006.07733): regress the other view's embedding, no negatives.

Also the first stage of ORL, which trains it on whole images.
"""

from __future__ import annotations

from pretrain.data.plan import Crop, Region
from pretrain.methods.base import Context, register
from pretrain.methods.bootstrap import Bootstrap, BootstrapSettings, Pair


class ByolSettings(BootstrapSettings):
    """Settings of BYOL.

    Attributes:
        crops: what the two views are cut from.
    """

    crops: Region = "image"


@register("byol")
class Byol(Bootstrap):
    """Bootstrap your own latent: two views of one region, the term ``regression``."""

    settings_class = ByolSettings

    def __init__(self, settings: ByolSettings, context: Context) -> None:
        first, second = (Crop(name, settings.crops, True) for name in ("view_1", "view_2"))
        super().__init__(settings, context, {"regression": Pair(first, second)})
