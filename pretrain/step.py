"""One step of training: views, losses in parts, gradient, agreement, optimizer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from pretrain import distributed, replay
from pretrain.config import RunSettings
from pretrain.core.errors import InputError
from pretrain.data import device
from pretrain.data.plan import Batch
from pretrain.distributed import World
from pretrain.methods.base import Context, Losses, Method, Metrics
from pretrain.methods.build import build_method
from pretrain.mixed_precision import autocast, choose_precision
from pretrain.optim import build_optimizer
from pretrain.schedule import learning_rate

Views = dict[str, Tensor]


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves.

    Attributes:
        values: to log, scalars or vectors.
        views: that the method saw.
        stop: whether a process was asked to stop.
    """

    values: dict[str, Tensor]
    views: Views
    stop: bool


class TrainStep:
    """Does steps.

    Args:
        settings: of the run.
        world: the process group.
        method: on its device.
        total_steps: of the run.
        epoch_steps: of a pass over the data.

    Attributes:
        precision: of the encoders' forwards, chosen where the settings leave it open.
    """

    def __init__(
        self,
        settings: RunSettings,
        world: World,
        method: Method,
        *,
        total_steps: int,
        epoch_steps: int,
    ) -> None:
        self.settings, self.world, self.method = settings, world, method
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        self.sides = method.view_plan.sides
        self.colors = settings.augment.by_view(list(self.sides))
        self.parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(settings.optim, method)
        self.precision = choose_precision(settings.train.precision, world.device)
        self.scaler = GradScaler(world.device.type, enabled=settings.train.precision == "fp16")

    def run(
        self, model: nn.Module, batch: Batch, step: int, *, stop: bool, log_statistics: bool
    ) -> StepOutput:
        """Do one step.

        Args:
            model: the method, or what makes it data-parallel.
            batch: of this process.
            step: number of steps done before.
            stop: whether this process was asked to stop.
            log_statistics: the method's statistics are wanted.

        Raises:
            NonFiniteLossError: a loss or gradient is not finite on some process.
        """
        optim = self.settings.optim
        rate = learning_rate(optim, step, self.total_steps, self.epoch_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        views = self._views(batch)
        parts = split_views(views, optim.accumulate)
        self.method.begin_step(step, self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        losses, metrics = self._accumulate(model, parts)
        loss = torch.stack(list(losses.values())).sum()
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients).detach()
        # The scaler looks for overflow in fp16 gradients itself, and skips such steps.
        finite = torch.isfinite(loss if self.scaler.is_enabled() else loss + norm)
        broken, stop = distributed.any_ranks([not bool(finite), stop], self.world.device)
        if broken:
            done = replay.Step(
                step, self.world.rank, batch, parts, losses, self.autocast, self.scaler.scale
            )
            raise replay.refuse(self.method, done, Path(self.settings.output) / "nonfinite")
        values = {"loss": loss, **{f"loss/{name}": term for name, term in losses.items()}}
        values.update(metrics)
        values["fallback"] = batch.fallback.float().mean().to(self.world.device)
        values["gradient_norm"] = norm
        # All ranks then hold one network, which the statistics look at.
        distributed.average_batch_norm(self.method)
        if log_statistics:
            with self.autocast():
                values.update(self.method.statistics())
        if optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, optim.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.end_step()
        return StepOutput(values, views, stop)

    def _accumulate(self, model: nn.Module, parts: list[Views]) -> tuple[Losses, Metrics]:
        """Forward and backward of all parts; the means of their losses and metrics, detached."""
        statistics = RunningStatistics(self.method) if len(parts) > 1 else None
        totals: tuple[Losses, Metrics] = ({}, {})
        for number, part in enumerate(parts):
            # Gradients travel once a step.
            last = number == len(parts) - 1
            alone = isinstance(model, DistributedDataParallel) and not last
            with model.no_sync() if alone else nullcontext():  # type: ignore[operator]
                with self.autocast():
                    found = model(part)
                loss = torch.stack(list(found[0].values())).sum() / len(parts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for total, values in zip(totals, found, strict=True):
                for name, value in values.items():
                    share = value.detach() / len(parts)
                    total[name] = total[name] + share if name in total else share
            if statistics is not None:
                statistics.end_part()
        if statistics is not None:
            statistics.end()
        return totals

    def _views(self, batch: Batch) -> Views:
        """Augmented views on the training device."""
        settings = self.settings
        channels_last = settings.train.channels_last
        return device.views(
            batch,
            self.world.device,
            self.colors,
            self.sides,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            compiled=settings.train.compile and self.world.device.type == "cuda",
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the encoders' forwards."""
        return autocast(self.precision, self.world.device)


class RunningStatistics:
    """Lets the parts of a step move the running statistics as the whole would.

    Each part starts from the statistics before the step, and the step leaves the mean of what
    the parts made of them. As running statistics are linear in the batches', that is one update
    with the mean over the parts, not several updates in a row.

    Args:
        module: whose batch norms are looked after.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [
            buffer
            for layer in module.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
            if buffer is not None
        ]
        self._start = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]
        self._parts = 0

    @torch.no_grad()
    def end_part(self) -> None:
        """After the forwards of a part: keep what they made of the statistics, and go back."""
        for buffer, start, total in zip(self._buffers, self._start, self._sums, strict=True):
            total.add_(buffer)
            buffer.copy_(start)
        self._parts += 1

    @torch.no_grad()
    def end(self) -> None:
        """After the last part: leave the mean over all parts."""
        for buffer, total in zip(self._buffers, self._sums, strict=True):
            buffer.copy_(total / self._parts)


def split_views(views: Views, parts: int) -> list[Views]:
    """The views of consecutive, equally many rows."""
    if parts == 1:
        return [views]
    pieces = {name: view.chunk(parts) for name, view in views.items()}
    return [{name: piece[n] for name, piece in pieces.items()} for n in range(parts)]


def method_of(settings: RunSettings, processes: int) -> Method:
    """The method of a run that so many processes share.

    Raises:
        InputError: the method cannot be built for this run, or its batch cannot be shared evenly.
    """
    rows = rows_a_forward(settings, processes)
    context = Context(settings.model, settings.views.size, rows * processes, rows, settings.seed)
    return build_method(settings.method, settings.hcl, context)


def rows_a_forward(settings: RunSettings, world_size: int) -> int:
    """How many rows a process' forward sees.

    Raises:
        InputError: the batch cannot be shared evenly by processes and parts.
    """
    batch, parts = settings.optim.batch_size, settings.optim.accumulate
    if batch % world_size:
        raise InputError(f"optim.batch_size: {batch} does not divide over {world_size} processes")
    if batch // world_size % parts:
        raise InputError(
            f"optim.accumulate: the {batch // world_size} rows of a process do not divide into "
            f"{parts} parts"
        )
    return batch // world_size // parts
