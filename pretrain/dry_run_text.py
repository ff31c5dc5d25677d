"""The plan of a run as text."""

from __future__ import annotations

from collections.abc import Iterable

from pretrain.core.text import duration
from pretrain.dry_run import Plan

INDENT = 12


def render(plan: Plan) -> str:
    """What ``hcl pretrain CONFIG --dry-run`` prints."""
    lines = [
        *_block("run", [f"{plan.method}, {plan.backbone}, {plan.precision}: {plan.output}"]),
        *_block("data", [_data(plan)]),
        *_block("views", _views(plan)),
        *_block("networks", _networks(plan)),
        *_block("queues", _queues(plan)),
        *_block("optimizer", _optimizer(plan)),
        *_block("schedule", _schedule(plan)),
        *_block("memory", _memory(plan)),
        *_block("duration", [_duration(plan)]),
        *(f"warning: {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines) + "\n"


def _block(title: str, lines: Iterable[str]) -> list[str]:
    heads = [title.ljust(INDENT)]
    return [(heads.pop() if heads else " " * INDENT) + line for line in lines]


def _data(plan: Plan) -> str:
    data = plan.data
    if data.images is None:
        return "not here: images, boxes and fingerprint unknown (--images N gives the number)"
    if data.fingerprint is None:
        return f"{data.images:,} images, as said; boxes and fingerprint unknown"
    return f"{data.images:,} images, {data.boxes:,} boxes, fingerprint {data.fingerprint[:16]}"


def _views(plan: Plan) -> list[str]:
    width = max(len(view.name) for view in plan.views)
    lines = []
    for view in plan.views:
        how = "random resized crop of" if view.random_resized else "whole"
        line = f"{view.name:<{width}}  {view.size} px, {how} {view.region}"
        own = ", ".join(f"{name} {_plain(value)}" for name, value in view.colors.items())
        lines.append(line + (f"; of its own: {own}" if own else ""))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{part:g}" for part in value) if len(value) == 2 else str(value)
    return str(value)


def _networks(plan: Plan) -> list[str]:
    width = max(len(part.name) for part in plan.networks)
    lines = [
        f"{part.name:<{width}}  {part.parameters / 1e6:8.3f} M"
        + ("" if part.trained else "  not trained")
        for part in plan.networks
    ]
    trained = sum(part.parameters for part in plan.networks if part.trained)
    everything = sum(part.parameters for part in plan.networks)
    return [
        *lines,
        f"{'together':<{width}}  {everything / 1e6:8.3f} M  {trained / 1e6:.3f} M trained",
    ]


def _queues(plan: Plan) -> list[str]:
    if not plan.queues:
        return ["none"]
    width = max(len(queue.name) for queue in plan.queues)
    return [
        f"{queue.name:<{width}}  {queue.entries:,} x {queue.dim}, {queue.mib:,.1f} MiB"
        for queue in plan.queues
    ]


def _optimizer(plan: Plan) -> list[str]:
    schedule = plan.schedule
    without = f", {schedule.undecayed:,} parameters without" if schedule.undecayed else ""
    batch = f"batch {schedule.batch}"
    if schedule.processes > 1:
        share = schedule.batch // schedule.processes
        batch += f", {share} on each of {schedule.processes} processes"
    if schedule.accumulate > 1:
        batch += f", in {schedule.accumulate} micro-batches of {schedule.micro_batch}"
    return [
        f"{schedule.optimizer}, weight decay {schedule.weight_decay:g}{without}",
        f"peak rate {schedule.peak_lr:g}: {schedule.rule}",
        batch,
    ]


def _schedule(plan: Plan) -> list[str]:
    schedule = plan.schedule
    warmup = "none" if schedule.warmup_steps == 0 else f"{_count(schedule.warmup_steps)} steps"
    epochs = "an unknown number of" if schedule.epochs is None else f"{schedule.epochs:g}"
    return [
        f"{schedule.schedule}; warm-up: {warmup}",
        f"{_count(schedule.total_steps)} steps: {epochs} epochs of {_count(schedule.epoch_steps)}",
    ]


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    return [
        f"weights {memory.weights:,.1f} + gradients {memory.gradients:,.1f} + optimizer "
        f"{memory.optimizer:,.1f} + queues {memory.queues:,.1f} = {memory.total:,.1f} MiB",
        "of each process; activations and views come on top",
        f"a checkpoint: {memory.checkpoint:,.1f} MiB",
    ]


def _duration(plan: Plan) -> str:
    if plan.images_per_s is None:
        return "unknown; --images-per-s N estimates it"
    if plan.seconds is None:
        return f"unknown: it needs the number of images ({plan.images_per_s:g} images/s)"
    return f"{duration(plan.seconds)} at {plan.images_per_s:g} images/s"
