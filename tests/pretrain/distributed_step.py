"""A few steps of every method in float64, as one process of several; run by test_distributed.py.

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
from pretrain.methods.base import Context, local_rows, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCLSettings
from pretrain.models import EncoderSettings

BATCH = 16
MOCO = {"name": "moco", "queue": 24, "norm_group": 4}
DENSE = {"name": "densecl", "queue": 24, "norm_group": 4, "symmetric": True}
GLOBAL = {"name": "moco", "queue": 24, "batch_norm": "synchronized"}
ORL = {"name": "orl", "predictor_hidden": 12, "patch_size": 16}

# Settings of the method, of the branch (None: without it), and steps.
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, int]] = {
    "fixed": (MOCO, {}, 3),
    "learned": (MOCO, {"learn_curvature": True}, 6),
    "densecl": (DENSE, {"distance": "cosine", "scenes_as_negatives": True}, 3),
    "in batch": (GLOBAL, {"distance": "euclidean", "negatives": "batch"}, 2),
    "byol": ({"name": "byol", "predictor_hidden": 12}, {}, 2),
    "orl": (ORL, {}, 1),
    "orl alone": (ORL, None, 1),
}


def main(output: str) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu") as world:
        # In a function of its own: whatever holds the process group must be gone before the
        # group is, or gloo's threads and the interpreter may wait for each other at exit.
        found = {name: steps(world, *run) for name, run in RUNS.items()}
        if world.is_main:
            torch.save(found, Path(output))


def steps(
    world: distributed.World,
    method_settings: dict[str, Any],
    branch: dict[str, Any] | None,
    count: int,
) -> dict[str, Any]:
    """Losses and state after a few steps."""
    torch.manual_seed(0)
    head: Any = "mlp_bn" if method_settings["name"] in ("byol", "orl") else "mlp"
    # Small: every rank gathers the state of every rank.
    encoder = EncoderSettings(
        backbone="timm/resnet10t",
        options={"channels": [8, 16, 24, 32], "stem_width": 8},
        head=head,
        hidden=16,
        dim=8,
    )
    context = Context(encoder, 32, BATCH, BATCH // world.size, seed=1)
    base = parse_method(method_settings, source="test")
    # In float64 a difference between world sizes is a mistake, not rounding.
    hcl = None if branch is None else HCLSettings(queue=24, weight=1.0, **branch)
    method = build_method(base, hcl, context).double().train()
    model: nn.Module = method
    if world.size > 1:
        model = DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    losses: list[Tensor] = []
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        views = {}
        for crop in method.view_plan.crops:
            shape = (BATCH, 3, method.view_plan.side(crop), method.view_plan.side(crop))
            images = torch.randn(shape, generator=generator, dtype=torch.float64)
            views[crop.name] = local_rows(images, BATCH // world.size, world.rank)
        method.begin_step(step, count)
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
