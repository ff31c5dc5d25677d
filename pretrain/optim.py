"""From settings to an optimizer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from pretrain.config import OptimSettings
from pretrain.core.errors import InputError
from pretrain.methods.base import Method

_log = logging.getLogger(__name__)


def build_optimizer(settings: OptimSettings, method: Method) -> torch.optim.Optimizer:
    """The optimizer of everything in the method that takes gradients.

    Raises:
        InputError: LARS without timm.
    """
    if settings.peak_lr != settings.lr:
        _log.info(
            "learning rate %g: %g for %d images, scaled to %d",
            settings.peak_lr,
            settings.lr,
            settings.base_batch,
            settings.batch_size,
        )
    groups = parameter_groups(settings, method)
    common: dict[str, Any] = {"lr": settings.peak_lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=settings.betas, **common)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **common)
    try:
        from timm.optim.lars import Lars
    except ImportError:
        raise InputError(
            "optim.optimizer: 'lars' needs timm; install it with `pip install 'hcl[timm]'`"
        ) from None
    lars: torch.optim.Optimizer = Lars(
        groups, momentum=settings.momentum, trust_coeff=settings.trust, **common
    )
    return lars


def parameter_groups(settings: OptimSettings, method: Method) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without where there are any."""
    spared = {id(p) for p in method.undecayed()}
    if settings.decay == "weights":
        for module in method.modules():
            # How timm's transformers name their position embedding, class token and the like.
            named: Any = getattr(module, "no_weight_decay", tuple)()
            spared |= {id(p) for name, p in module.named_parameters() if name in named}
            normalizing = isinstance(
                module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm
            )
            spared |= {
                id(p)
                for name, p in module.named_parameters(recurse=False)
                if normalizing or name == "bias"
            }
    trained = [p for p in method.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in spared]}]
    without = [p for p in trained if id(p) in spared]
    if without:
        groups.append({"params": without, "weight_decay": 0.0})
    return groups


def rate_warning(settings: OptimSettings) -> str | None:
    """What to say where batch and rate have parted and nothing was done about it."""
    base, batch = settings.base_batch, settings.batch_size
    if base is None or base == batch or settings.scale_lr == "linear":
        return None
    return (
        f"optim.lr={settings.lr:g} was chosen for a batch of {base}, but batch_size is {batch}; "
        f"the linear rule gives {settings.lr * batch / base:g} (optim.scale_lr=linear)"
    )
