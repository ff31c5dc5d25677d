"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from pretrain.config import OptimSettings


def learning_rate(settings: OptimSettings, step: int, total_steps: int, epoch_steps: int) -> float:
    """The rate of ``step`` (from 0): the schedule's, times the warm-up's share of it.

    The schedule runs over the whole run, warm-up included, as in the official codes; they change
    it once an epoch (``schedule_per``).

    Args:
        settings: of the optimizer.
        step: from 0.
        total_steps: of the run.
        epoch_steps: of one pass over the data.
    """
    rate = settings.peak_lr * _scheduled(settings, step, total_steps, epoch_steps)
    warmup = warmup_steps(settings, epoch_steps)
    if step >= warmup:
        return rate
    start = settings.warmup_from
    done = (step if start > 0 else step + 1) / warmup
    return rate * (start + (1 - start) * done)


def warmup_steps(settings: OptimSettings, epoch_steps: int) -> int:
    """Length of the warm-up."""
    return settings.warmup_steps or round(settings.warmup_epochs * epoch_steps)


def _scheduled(settings: OptimSettings, step: int, total_steps: int, epoch_steps: int) -> float:
    """Share of the peak rate."""
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        passed = sum(step >= milestone * epoch_steps for milestone in settings.milestones)
        return settings.gamma**passed
    if settings.schedule_per == "epoch":
        progress = (step // epoch_steps) / max(math.ceil(total_steps / epoch_steps), 1)
    else:
        progress = step / max(total_steps, 1)
    floor = settings.final_lr
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
