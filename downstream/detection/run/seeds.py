"""One transfer or several seeds of it, in one group of processes."""

from __future__ import annotations

import os
from pathlib import Path

from downstream.detection.options import Options
from downstream.results.result import Result, read_result
from pretrain.core.errors import InputError


def folder_of(output: Path, seed: int) -> Path:
    """The result folder of one seed."""
    return output / f"seed{seed}"


def check_seeds(options: Options) -> None:
    """Check that seeds are given once.

    Raises:
        InputError: twice the same, a negative one, or SEED among the overrides too.
    """
    seeds = options.seeds
    if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: different numbers from 0 on")
    if seeds and "SEED" in options.overrides[::2]:
        raise InputError("--seeds and an override of SEED: give one of them")
    if seeds and options.eval_only:
        raise InputError("--seeds trains; --eval-only measures one detector: give one of them")


def run_all(options: Options) -> list[Result]:
    """Run one transfer, or one a seed, and read the results back.

    Each seed has a folder of its own in the output; without any it is one transfer. Processes are
    started on this machine where neither torchrun nor srun has.

    Returns:
        The results; none where this is not the main process of torchrun's or srun's.

    Raises:
        InputError: something given is wrong.
    """
    from downstream.detection.model import compat
    from downstream.detection.run.launch import spawn

    compat.require()
    check_seeds(options)
    processes = options.num_gpus
    outside = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and outside > 1 and processes != outside:
        raise InputError(f"--num-gpus {processes}, but torchrun has started {outside} processes")
    if processes > 1 and outside == 1:
        spawn(processes, run_here, options)
    else:
        run_here(options)
    folders = [folder_of(options.output, seed) for seed in options.seeds]
    folders = folders or [options.output]
    return (
        [read_result(folder) for folder in folders] if int(os.environ.get("RANK", 0)) == 0 else []
    )


def run_here(options: Options) -> None:
    """The part of this process."""
    from downstream.detection.model.config import load_config
    from downstream.detection.run.launch import joined
    from downstream.detection.run.transfer import detect

    device = str(load_config(options.config, options.overrides).MODEL.DEVICE)
    with joined(device) as world:
        for seed in options.seeds:
            overrides = (*options.overrides, "SEED", str(seed))
            folder = folder_of(options.output, seed)
            one = options.model_copy(update={"output": folder, "overrides": overrides})
            # Of several seeds, those done before an interruption stay as they are.
            detect(one, world)
        if not options.seeds:
            detect(options, world)


def summary(output: Path) -> str:
    """Mean and standard deviation over the seeds below ``output``, as `hcl compare` groups them."""
    from downstream.results.collect import collect
    from downstream.results.table import value_of

    found = collect([output])
    lines = []
    for name in found.names:
        results = found.of(name, "detection")
        for metric in dict.fromkeys(key for one in results for key in one.result.metrics):
            value = value_of(found, name, "detection", metric)
            if value is not None:
                lines.append(f"{name}  {metric:12} {value.text(2):>14}  ({value.count} seeds)")
    return "\n".join(lines)
