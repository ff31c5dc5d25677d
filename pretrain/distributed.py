"""The process group: one process or many, the same calls."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.core.errors import InputError


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: from 0 to ``size`` - 1.
        size: number of processes.
        local_rank: rank on this machine.
        local_size: number of processes on this machine.
        device: where this process computes.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[World]:
    """Join the process group that torchrun or Slurm's srun describes; alone without either.

    NCCL on CUDA, gloo on the CPU. A collective waits half an hour for a lost process.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: ``device`` names CUDA and there is none.
    """
    environment = _slurm_environment(os.environ)
    os.environ.update(environment)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    world = World(rank, size, local_rank, local_size, _device(device, local_rank))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if size == 1:
        yield world
        return
    dist.init_process_group(
        "nccl" if world.device.type == "cuda" else "gloo",
        timeout=timedelta(minutes=30),
        rank=rank,
        world_size=size,
        device_id=world.device if world.device.type == "cuda" else None,
    )
    try:
        yield world
    finally:
        # What still holds the group, such as DDP in a reference cycle, must go before it does:
        # else its destructor runs at exit, holding the interpreter that gloo's threads wait for.
        gc.collect()
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"train.device: '{name}' asks for CUDA and this machine has none; use cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of torchrun, made of those of ``srun`` where torchrun is not at work."""
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", 1)) < 2:
        return {}
    if "SLURM_PROCID" not in environment or environment.get("SLURM_STEP_ID") is None:
        return {}  # inside a batch script, not started by srun
    size = environment["SLURM_NTASKS"]
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    # One port per job step, so that jobs sharing a node do not meet.
    step = f"{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
    port = 20000 + int(hashlib.sha256(step.encode()).hexdigest(), 16) % 20000
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": environment.get("SLURM_STEP_TASKS_PER_NODE", size)
        .split("(")[0]
        .split(",")[0],
        "MASTER_ADDR": nodes[0],
        "MASTER_PORT": str(port),
    }


def is_active() -> bool:
    """Whether there is more than one process."""
    return dist.is_available() and dist.is_initialized()


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if is_active() else (0, 1)


@torch.no_grad()
def all_gather(values: Tensor) -> Tensor:
    """Rows of all ranks in rank order, (B, ...) -> (world * B, ...); carries no gradient."""
    if not is_active():
        return values
    values = values.contiguous()
    gathered = values.new_empty((dist.get_world_size() * len(values), *values.shape[1:]))
    dist.all_gather_into_tensor(gathered, values)
    return gathered


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set on at least one rank; all ranks get the same answer."""
    return any_ranks([flag], device)[0]


def any_ranks(flags: list[bool], device: torch.device) -> list[bool]:
    """:func:`any_rank` of several flags, in one collective."""
    if not is_active():
        return flags
    values = torch.tensor(flags, dtype=torch.float32, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [value > 0 for value in values.tolist()]


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """Element-wise mean over ranks."""
    if is_active():
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


@torch.no_grad()
def average_batch_norm(module: nn.Module) -> None:
    """Average the running statistics of batch norm over ranks, in one collective.

    Running statistics are linear in the batches', so this equals following the mean of all
    ranks' statistics, and keeps every rank's state the same at every step.
    """
    if not is_active():
        return
    buffers = [
        buffer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    sum_over_ranks(buffers)
    for buffer in buffers:
        buffer.div_(dist.get_world_size())


@torch.no_grad()
def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over all ranks, in one collective."""
    if not is_active() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    totals = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, totals, strict=True):
        tensor.copy_(total.view_as(tensor))


def barrier() -> None:
    """Wait for all ranks."""
    if is_active():
        dist.barrier()
