"""A backbone and one linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.core.settings import Settings
from pretrain.models import build_backbone
from pretrain.models.backbones import import_timm

NO_DOWNLOAD = "put them into a file and set model.weights to it"


class Architecture(Settings):
    """Enough to rebuild a network before its weights are loaded.

    Attributes:
        library: ``timm``, or ``hcl`` for a backbone of `hcl pretrain`.
        backbone: name in that library.
        options: of its constructor.
        dim: of the embedding.
        tokens: see ``ModelSettings``.
        mean: per channel, for images in [0, 1].
        std: likewise.
    """

    library: Literal["timm", "hcl"]
    backbone: str
    options: dict[str, Any]
    dim: int
    tokens: Literal["class", "mean", "released"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Network(nn.Module):
    """Images (N, 3, H, W) to features (N, F) and projections (N, D), not normalized."""

    def __init__(self, backbone: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = backbone
        width: int = backbone.num_features  # type: ignore[assignment]
        self.head = nn.Linear(width, architecture.dim)
        nn.init.orthogonal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._fixed_norms: tuple[nn.Module, ...] = ()

    def fix_norms(self, modules: Iterable[nn.Module]) -> None:
        """Let the batch norms among ``modules`` use and keep their running statistics."""
        found = (m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm))
        self._fixed_norms = (*self._fixed_norms, *found)

    def train(self, mode: bool = True) -> Self:
        """As in any module, but for the batch norms whose statistics are fixed."""
        super().train(mode)
        for norm in self._fixed_norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and projections."""
        features = self._features(images)
        return features, self.head(features)

    def _features(self, images: Tensor) -> Tensor:
        if not hasattr(self.backbone, "dist_token"):
            features: Tensor = self.backbone(images)
            return features
        tokens: Tensor = self.backbone.forward_features(images)  # type: ignore[operator]
        kind = self.architecture.tokens
        if kind == "class" or (kind == "released" and self.training):
            return tokens[:, 0]
        return (tokens[:, 0] + tokens[:, 1]) / 2


def rebuild(architecture: Architecture) -> Network:
    """The network without its weights."""
    if architecture.library == "hcl":
        backbone = build_backbone(architecture.backbone, architecture.options)
    else:
        backbone = create_timm_network(architecture.backbone, architecture.options, download=False)
    return Network(backbone, architecture)


def create_timm_network(name: str, options: dict[str, Any], *, download: bool) -> nn.Module:
    """A network of timm without its classifier.

    Raises:
        InputError: timm has no such model, or its constructor or the download fails.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.', maxsplit=1)[0][:12]}*")[:3]
        hint = f"such as {', '.join(near)}" if near else "see timm.list_models()"
        raise InputError(f"model.backbone: timm has no model '{name}'; {hint}")
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=download, **{"num_classes": 0, **options}
        )
    except Exception as error:  # whatever timm raises is about the options or the download
        remedy = NO_DOWNLOAD if download else "check model.options"
        raise InputError(f"model.backbone: timm's {name}: {error}; {remedy}") from None
    return network
