"""A few steps of MoCo + HCL in float64, as one process of several; run by test_distributed.py.

Usage: torchrun ... distributed_step.py OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import distributed
from pretrain.methods.base import Context, local_rows
from pretrain.methods.hcl import HCL, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import EncoderSettings

BATCH, STEPS = 16, 3


def main(output: str) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu") as world:
        # In a function of its own: whatever holds the process group must be gone before the
        # group is, or gloo's threads and the interpreter may wait for each other at exit.
        found = {name: steps(world, name == "learned") for name in ("fixed", "learned")}
        if world.is_main:
            torch.save(found, Path(output))


def steps(world: distributed.World, learn_curvature: bool) -> dict[str, Any]:
    """Losses and state after a few steps."""
    torch.manual_seed(0)
    encoder = EncoderSettings(backbone="resnet18", dim=8)
    context = Context(encoder, 32, BATCH, BATCH // world.size, seed=1)
    base = Moco(MocoSettings(name="moco", queue=24, norm_group=4), context)
    # In float64 a difference between world sizes is a mistake, not rounding.
    settings = HCLSettings(queue=24, weight=1.0, learn_curvature=learn_curvature)
    method = HCL(base, settings, context).double().train()
    model: nn.Module = method
    if world.size > 1:
        model = DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    losses: list[Tensor] = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        views = {
            crop.name: local_rows(
                torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64),
                BATCH // world.size,
                world.rank,
            )
            for crop in method.view_plan.crops
        }
        method.begin_step(step, STEPS)
        terms, _ = model(views)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distributed.average_batch_norm(method)
        method.end_step()
        losses.append(distributed.mean_over_ranks(loss.detach()))
    held = [value.double() for value in method.state_dict().values()]
    states = distributed.all_gather(nn.utils.parameters_to_vector(held)[None])
    assert torch.equal(states, states[:1].expand_as(states)), "ranks hold different states"
    assert distributed.any_rank(world.rank == world.size - 1, world.device)
    return {"losses": torch.stack(losses), "state": method.state_dict()}


if __name__ == "__main__":
    main(sys.argv[1])
