"""Probe and monitor of an untrained network, as one process of several; run by test_online.py.

Usage: torchrun ... probe_step.py SCENES OUTPUT
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from small_network import small_encoder

from pretrain import distributed
from pretrain.datasets.source import DataSettings
from pretrain.methods.base import Context, local_rows
from pretrain.methods.byol import Byol, ByolSettings
from pretrain.probes.collapse import CollapseMonitor
from pretrain.probes.encode import Forward
from pretrain.probes.online import KnnProbe
from pretrain.probes.settings import ProbeSettings

BATCH = 16


def main(scenes: str, output: str) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu") as world:
        found = values(world, Path(scenes))
        if world.is_main:
            Path(output).write_text(json.dumps(found))


def values(world: distributed.World, scenes: Path) -> dict[str, float]:
    torch.manual_seed(0)
    encoder = small_encoder(head="mlp_bn", hidden=16, dim=8)
    settings: dict[str, Any] = {"name": "byol", "predictor_hidden": 12}
    context = Context(encoder, 32, BATCH, BATCH // world.size, seed=1)
    method = Byol(ByolSettings(**settings), context).train()
    data = DataSettings(
        annotations=str(scenes / "annotations/instances_train.json"),
        images=str(scenes / "train"),
        index=str(scenes.parent / "probe_index"),
        workers=0,
    )
    half = (0.5, 0.5, 0.5)
    how = Forward(*(32, half, half, world.device, torch.contiguous_format, contextlib.nullcontext))
    # A k that the bank exceeds, and batches that do not fit any share.
    probe = KnnProbe(ProbeSettings(data=data, k=15, batch_size=7), method.encoder, how, 1)
    found = probe(1)
    generator = torch.Generator().manual_seed(5)
    views = {
        name: local_rows(
            torch.randn(BATCH, 3, 32, 32, generator=generator), BATCH // world.size, world.rank
        )
        for name in ("view_1", "view_2")
    }
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    monitor.arm()
    method(views)
    found.update({name: value.item() for name, value in monitor.read().items()})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
