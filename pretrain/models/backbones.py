"""Backbones by name: torchvision's ResNets, and timm's CNNs and transformers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.core.text import suggest

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101")
TIMM = "timm/"
POOLS = ("avg", "max", "avgmax", "token", "map")
"""timm's poolings whose output is as wide as the model says."""

# Arguments of timm's factory that would make it another thing than a backbone for this project.
_OURS = {
    *("cache_dir", "checkpoint_path", "exportable", "features_only", "in_chans", "no_jit"),
    *("num_classes", "out_indices", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("scriptable",),
}


def is_timm(name: str) -> bool:
    """Whether ``name`` is of the form ``timm/NAME``."""
    return name.startswith(TIMM)


def build_backbone(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A randomly initialized network without classifier: (N, 3, H, W) -> (N, num_features).

    Parameters have the names and the initialization of the library the network is from.

    Args:
        name: one of ``TORCHVISION``, or ``timm/NAME``.
        options: arguments of timm's constructor, such as ``drop_path_rate``.

    Raises:
        InputError: no such backbone or option, or timm is not installed.
    """
    if is_timm(name):
        return _build_timm(name.removeprefix(TIMM), dict(options or {}))
    if name not in TORCHVISION:
        hint = suggest(name, TORCHVISION, f"one of {', '.join(TORCHVISION)}", cutoff=0.6)
        raise InputError(f"model.backbone: unknown backbone '{name}'; {hint}, or timm/NAME")
    if options:
        raise InputError(
            f"model.options: torchvision's {name} takes none; use model.backbone=timm/{name}"
        )
    network: Any = getattr(torchvision.models, name)(weights=None)
    network.num_features = network.fc.in_features
    network.fc = nn.Identity()
    return network  # type: ignore[no-any-return]


def timm_arguments(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``timm.create_model(architecture, ...)`` is given, for a checked ``architecture``.

    Models with a position embedding are built for any image size where they know how to be: the
    embedding keeps the grid of the model's own size and is interpolated to that of the images.
    """
    timm = import_timm()
    arguments = {"num_classes": 0, **options}
    if timm.get_pretrained_cfg(architecture).fixed_input_size:
        flexible = {"dynamic_img_size": True, **arguments}
        try:
            with torch.device("meta"):
                timm.create_model(architecture, **flexible)
        except TypeError:  # the model has no such argument, or the user's are wrong
            return arguments
        return flexible
    return arguments


def check_size(network: nn.Module, images: Tensor) -> None:
    """Refuse images of a size that ``network``, from ``build_backbone``, cannot take.

    Raises:
        InputError: naming the size it can.
    """
    sizes: _Sizes | None = getattr(network, "image_sizes", None)
    if sizes is not None:
        sizes.check(tuple(images.shape[-2:]))


def import_timm() -> Any:
    """The module ``timm``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise InputError(
            "model.backbone: 'timm/...' needs timm; install it with `pip install 'hcl[timm]'`"
        ) from None
    return timm


class _Sizes:
    """Which images a timm model takes: one size, or multiples of its patch."""

    def __init__(self, name: str, fixed: tuple[int, int] | None, patch: tuple[int, int]) -> None:
        self.name, self.fixed, self.patch = name, fixed, patch

    def check(self, found: tuple[int, ...]) -> None:
        height, width = found
        if self.fixed is not None and found != self.fixed:
            raise InputError(
                f"model.backbone: {self.name} takes images of {self.fixed[0]}x{self.fixed[1]} px "
                f"only, not {height}x{width}; set model.options.img_size={height} if all views "
                "are of that size, or take a backbone for any size"
            )
        if height % self.patch[0] or width % self.patch[1]:
            raise InputError(
                f"model.backbone: {self.name} cuts images into patches of "
                f"{self.patch[0]}x{self.patch[1]} px, which do not divide {height}x{width}; choose "
                "views of a multiple, or set model.options.dynamic_img_pad=true"
            )


def _build_timm(architecture: str, options: dict[str, Any]) -> nn.Module:
    timm = import_timm()
    known = timm.list_models()
    if architecture not in known:
        hint = suggest(architecture, known, "see timm.list_models()", prefix="timm/")
        raise InputError(f"model.backbone: timm has no model '{architecture}'; {hint}")
    _check_options(options)
    arguments = timm_arguments(architecture, options)
    try:
        network: nn.Module = timm.create_model(architecture, pretrained=False, **arguments)
    except Exception as error:
        # The options go deep into timm, and whatever it raises is about them.
        if not options:
            raise
        raise InputError(f"model.options: {_fault(architecture, options, error)}") from None
    # Some models widen the map before they pool or after; what counts here is what comes out.
    network.num_features = getattr(network, "head_hidden_size", network.num_features)
    network.image_sizes = _sizes(architecture, network, arguments)  # type: ignore[assignment]
    network.register_forward_pre_hook(partial(_check_input))
    return network


def _check_input(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    check_size(network, inputs[0])


def _check_options(options: Mapping[str, Any]) -> None:
    ours = sorted(_OURS & set(options))
    if ours:
        raise InputError(f"model.options: '{ours[0]}' is not for a config to choose; leave it out")
    if options.get("global_pool", "avg") not in POOLS:
        raise InputError(
            f"model.options: global_pool '{options['global_pool']}' is none of {', '.join(POOLS)}"
        )


def _fault(architecture: str, options: Mapping[str, Any], error: Exception) -> str:
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in options:
        return f"timm/{architecture} refused {dict(options)}: {type(error).__name__}: {error}"
    with torch.device("meta"):
        plain = import_timm().create_model(architecture)
    # Base classes too: many models hand what they do not know on to their base.
    names = {name for kind in type(plain).__mro__ for name in inspect.signature(kind).parameters}
    hint = suggest(found[1], sorted(names), "leave it out", cutoff=0.6)
    return f"timm/{architecture} has no option '{found[1]}'; {hint}"


def _sizes(architecture: str, network: nn.Module, arguments: Mapping[str, Any]) -> _Sizes:
    config = import_timm().get_pretrained_cfg(architecture)
    name = TIMM + architecture
    fixed: tuple[int, int] | None = None
    if config.fixed_input_size and not getattr(network, "dynamic_img_size", False):
        size = arguments.get("img_size", config.input_size[1:])
        fixed = (size, size) if isinstance(size, int) else tuple(size)
    patch = (1, 1)
    # Only embeddings that refuse other sizes; hierarchical models pad by themselves.
    embed = getattr(network, "patch_embed", None)
    pads = getattr(embed, "dynamic_img_pad", True)
    if config.fixed_input_size and not pads:
        patch = tuple(embed.patch_size)  # type: ignore[union-attr]
    return _Sizes(name, fixed, patch)
