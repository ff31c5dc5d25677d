"""What a run would be, without running it: ``hcl pretrain CONFIG --dry-run``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pretrain.advice import Facts, advise
from pretrain.config import OptimSettings, RunSettings
from pretrain.core.errors import InputError
from pretrain.data.coverage import lack_of_boxes
from pretrain.data.index import Index
from pretrain.data.pack import Pack, open_pack
from pretrain.data.pairs import PairTable
from pretrain.data.plan import ViewPlan
from pretrain.datasets.source import open_index
from pretrain.methods.base import Method
from pretrain.mixed_precision import choose_precision
from pretrain.models import Encoder, Queue
from pretrain.optim import parameter_groups
from pretrain.schedule import warmup_steps
from pretrain.step import method_of, rows_a_forward

MIB = 2**20
STATE_COPIES = {"sgd": 1, "lars": 1, "adamw": 2}
"""Tensors of a parameter's size that each optimizer keeps (with momentum)."""


@dataclass(frozen=True)
class Data:
    """The index, as far as it can be opened; None: not known."""

    images: int | None
    boxes: int | None
    fingerprint: str | None


@dataclass(frozen=True)
class View:
    """One crop of a row; ``colors``: what of ``augment`` is different for it."""

    name: str
    region: str
    random_resized: bool
    size: int
    colors: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A network or a single parameter of the method."""

    name: str
    parameters: int
    trained: bool


@dataclass(frozen=True)
class QueuePlan:
    """A queue of keys."""

    name: str
    entries: int
    dim: int
    mib: float


@dataclass(frozen=True)
class Schedule:
    """Optimizer and length; steps are None where the number of images is not known."""

    optimizer: str
    peak_lr: float
    rule: str
    batch: int
    processes: int
    accumulate: int
    micro_batch: int
    weight_decay: float
    undecayed: int
    schedule: str
    warmup_steps: int | None
    epoch_steps: int | None
    total_steps: int | None
    epochs: float | None


@dataclass(frozen=True)
class Memory:
    """Of one process, MiB; activations, views and workspaces come on top."""

    weights: float
    gradients: float
    optimizer: float
    queues: float
    total: float
    checkpoint: float


@dataclass(frozen=True)
class Plan:
    """All that ``--dry-run`` prints."""

    output: str
    method: str
    backbone: str
    precision: str
    data: Data
    views: tuple[View, ...]
    networks: tuple[Part, ...]
    queues: tuple[QueuePlan, ...]
    schedule: Schedule
    memory: Memory
    images_per_s: float | None
    seconds: float | None
    warnings: tuple[str, ...]


def plan_run(
    settings: RunSettings,
    *,
    processes: int = 1,
    images: int | None = None,
    images_per_s: float | None = None,
) -> Plan:
    """Build the method, look at the data if it is there, and say what training would be.

    Args:
        settings: of the run.
        processes: that the run will be shared by.
        images: number of images, where the data is not on this machine.
        images_per_s: speed to expect, images of the data set, for the duration.

    Raises:
        InputError: the method cannot be built, or the batch cannot be divided.
    """
    optim = settings.optim
    method = method_of(settings, processes)
    plan = method.view_plan
    index, pairs, pack, missing = _data(settings, plan)
    data = Data(images, None, None)
    if index is not None:
        data = Data(len(index), int(index.box_count), index.fingerprint)
    schedule = _schedule(settings, method, data.images, processes)
    facts = Facts(settings, method, data.images, schedule.total_steps, index, pairs, pack)
    warnings = [*missing, *advise(facts)]
    if schedule.epoch_steps == 0:
        warnings.append(f"optim.batch_size: {optim.batch_size} exceeds the {data.images} images")
    seconds = None
    if images_per_s is not None and schedule.total_steps is not None:
        seconds = schedule.total_steps * optim.batch_size / images_per_s
    return Plan(
        settings.output,
        settings.method_name,
        settings.model.backbone,
        _precision(settings),
        data,
        _views(settings, plan),
        tuple(_parts(method)),
        tuple(_queues(method)),
        schedule,
        _memory(optim, method),
        images_per_s,
        seconds,
        tuple(warnings),
    )


def _precision(settings: RunSettings) -> str:
    """Of the forwards; where the machine decides, what this one would take."""
    asked = settings.train.precision
    if asked != "auto":
        return asked
    cuda = settings.train.device != "cpu" and torch.cuda.is_available()
    return f"{choose_precision(asked, torch.device('cuda' if cuda else 'cpu'))} (chosen here)"


def _data(
    settings: RunSettings, plan: ViewPlan
) -> tuple[Index | None, PairTable | None, Pack | None, list[str]]:
    """The run's data as far as they can be opened here, and what is missing."""
    data = settings.data
    index = pairs = pack = None
    missing = []
    try:
        settings.augment.by_view(list(plan.sides))
    except InputError as error:
        missing.append(str(error))
    try:
        index = open_index(data)
        if (lack := lack_of_boxes(index, plan, settings.views)) is not None:
            missing.append(lack)
    except InputError as error:
        missing.append(f"the data cannot be opened here: {error}")
    if plan.pairs and data.pairs is None:
        missing.append("data.pairs: this method needs a table of pairs; none is given")
    try:
        if plan.pairs and data.pairs is not None:
            pairs = PairTable.open(Path(data.pairs).expanduser())
            if index is not None and pairs.fingerprint != index.fingerprint:
                missing.append(f"data.pairs: {data.pairs} is of another index than the data's")
                pairs = None
    except InputError as error:
        missing.append(f"data.pairs: {error}")
    try:
        pack = None if index is None else open_pack(data.pack, index)
    except InputError as error:
        missing.append(f"data.pack: {error}")
    return index, pairs, pack, missing


def _views(settings: RunSettings, plan: ViewPlan) -> tuple[View, ...]:
    own = settings.augment.views
    return tuple(
        View(
            crop.name,
            crop.region,
            crop.random_resized,
            plan.side(crop),
            own[crop.name].model_dump(exclude_none=True) if crop.name in own else {},
        )
        for crop in plan.crops
    )


def _parts(module: nn.Module, prefix: str = "") -> Iterator[Part]:
    """Networks by name; encoders are taken apart into backbone and heads."""
    for name, parameter in module.named_parameters(recurse=False):
        yield Part(prefix + name, parameter.numel(), parameter.requires_grad)
    for name, child in module.named_children():
        if isinstance(child, Method | Encoder | nn.ModuleDict | nn.ModuleList):
            inner = prefix if isinstance(child, Method) else f"{prefix}{name}."
            yield from _parts(child, inner)
            continue
        parameters = list(child.parameters())
        if parameters:
            size = sum(p.numel() for p in parameters)
            yield Part(prefix + name, size, any(p.requires_grad for p in parameters))


def _queues(method: Method) -> Iterator[QueuePlan]:
    for name, module in method.named_modules():
        if isinstance(module, Queue):
            entries, dim = module.rows.shape
            yield QueuePlan(name, entries, dim, round(module.rows.nbytes / MIB, 1))


def _schedule(
    settings: RunSettings, method: Method, images: int | None, processes: int
) -> Schedule:
    optim, train = settings.optim, settings.train
    epoch_steps = None if images is None else images // optim.batch_size
    total = train.steps if epoch_steps is None else train.total_steps(epoch_steps)
    epochs: float | None = train.epochs
    if epochs is None and epoch_steps and total is not None:
        epochs = total / epoch_steps
    groups = parameter_groups(optim, method)
    undecayed = [p for group in groups if "weight_decay" in group for p in group["params"]]
    unknown = epoch_steps is None and optim.warmup_epochs
    warmup = None if unknown else warmup_steps(optim, epoch_steps or 0)
    how = f"{optim.schedule}, changed once an {optim.schedule_per}".replace("an step", "a step")
    return Schedule(
        optim.optimizer,
        optim.peak_lr,
        _rule(optim),
        optim.batch_size,
        processes,
        optim.accumulate,
        rows_a_forward(settings, processes),
        optim.weight_decay,
        sum(p.numel() for p in undecayed),
        "constant" if optim.schedule == "constant" else how,
        warmup,
        epoch_steps,
        total,
        epochs,
    )


def _rule(optim: OptimSettings) -> str:
    base = optim.base_batch
    if base is None:
        return "as given; the batch it is for is not stated (optim.base_batch)"
    if optim.scale_lr == "linear":
        return f"{optim.lr:g} x {optim.batch_size} / {base}, the linear rule"
    return f"as given, for a batch of {base}"


def _memory(optim: OptimSettings, method: Method) -> Memory:
    weights = sum(p.nbytes for p in method.parameters())
    trained = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    queues = sum(m.rows.nbytes for m in method.modules() if isinstance(m, Queue))
    others = sum(b.nbytes for b in method.buffers()) - queues
    copies = STATE_COPIES[optim.optimizer]
    if optim.optimizer != "adamw" and not optim.momentum:
        copies = 0
    parts = [weights + others, trained, copies * trained, queues]
    checkpoint = sum(parts) - trained
    return Memory(*(round(size / MIB, 1) for size in (*parts, sum(parts), checkpoint)))
