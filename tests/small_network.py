"""The network of tests to which any network will do: a small ResNet with batch norm.

A short run costs a quarter of what it costs with a ResNet-18. Tests of torchvision's own networks
name those.
"""

from __future__ import annotations

from typing import Any

from pretrain.models import EncoderSettings

SMALL: dict[str, Any] = {
    "backbone": "timm/resnet10t",
    "options": {"channels": [16, 32, 64, 128], "stem_width": 8},
}
SMALL_WORDS = [f"model.{name}={value}" for name, value in SMALL.items()]
"""The same on the command line."""


def small_encoder(**more: Any) -> EncoderSettings:
    """The settings of an encoder with this backbone."""
    return EncoderSettings(**SMALL, **more)
