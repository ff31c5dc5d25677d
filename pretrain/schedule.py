"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from pretrain.config import OptimSettings


def learning_rate(settings: OptimSettings, step: int, total_steps: int, epoch_steps: int) -> float:
    """The rate of ``step`` (from 0).

    Cosine to zero over the whole run, per step or per epoch (the official codes of MoCo, DenseCL
    and HCL change it per epoch), after a linear warm-up.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule_per == "epoch":
        progress = (step // epoch_steps) / max(math.ceil(total_steps / epoch_steps), 1)
    else:
        progress = step / max(total_steps, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
