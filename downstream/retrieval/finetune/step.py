"""One step: embed, gather, loss, gradient, clip, update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from downstream.retrieval.finetune.loss import ball_points, gather, metric_loss
from downstream.retrieval.finetune.network import Network
from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain import distributed
from pretrain.distributed import World
from pretrain.geometry import poincare
from pretrain.loop import NonFiniteLossError
from pretrain.mixed_precision import autocast


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves: values to log, and whether some process was asked to stop."""

    values: dict[str, Tensor]
    stop: bool


class TrainStep:
    """Does steps.

    Args:
        settings: of the run.
        world: the process group.
        network: on its device.
    """

    def __init__(self, settings: FinetuneSettings, world: World, network: Network) -> None:
        self.settings, self.world, self.network = settings, world, network
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        optim = settings.optim
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
        )
        self.scaler = GradScaler(world.device.type, enabled=settings.train.precision == "fp16")
        architecture = network.architecture
        self._mean = torch.tensor(architecture.mean, device=world.device).view(3, 1, 1)
        self._std = torch.tensor(architecture.std, device=world.device).view(3, 1, 1)

    def normalize(self, batch: Tensor) -> Tensor:
        """uint8 (N, 3, S, S) as the network expects it, on its device."""
        return (batch.to(self.world.device).float() / 255 - self._mean) / self._std

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def run(self, batch: Tensor, step: int, *, stop: bool) -> StepOutput:
        """Do one step on this process' images, uint8 (n, 3, S, S).

        Raises:
            NonFiniteLossError: loss or gradient is not finite, on every process alike.
        """
        # What a backbone draws itself, such as stochastic depth, then depends on the step alone.
        torch.manual_seed((self.settings.seed << 32) + step * self.world.size + self.world.rank)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.settings.train.precision, self.world.device):
            _, projections = self.network(self.normalize(batch))
        sampler = self.settings.sampler
        gathered = gather(projections).reshape(sampler.classes, sampler.samples, -1)
        loss = metric_loss(gathered, self.settings.loss)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        distributed.sum_over_ranks(gradients)
        norm = self._clip(gradients)
        # The scaler looks for overflow in fp16 gradients itself, and skips such steps.
        watched = loss.detach() if self.scaler.is_enabled() else loss.detach() + norm
        if not math.isfinite(float(watched)):
            raise NonFiniteLossError(f"step {step + 1}: the loss or its gradient is not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        distributed.average_batch_norm(self.network)
        values = {"loss": loss.detach(), "gradient_norm": norm, **self._norms(gathered.detach())}
        return StepOutput(values, distributed.any_rank(stop, self.world.device))

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        """Limit the gradient's norm; returns the norm before."""
        optim = self.settings.optim
        if not optim.clip_scaled:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(gradients).detach()
        if optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, optim.clip_norm, norm)
        return norm

    def _norms(self, projections: Tensor) -> dict[str, Tensor]:
        """Mean and deviation of the distance from the center of the ball, where there is one."""
        settings = self.settings.loss
        if settings.geometry == "sphere":
            return {}
        points = ball_points(projections.flatten(0, 1), settings)
        distances = poincare.distance_to_origin(points, settings.curvature)
        return {"ball_norm/mean": distances.mean(), "ball_norm/std": distances.std()}
