"""Our training step beside the bare network's forwards and backwards, and beside lightly's MoCo.

    python benchmarks/train_step.py [--device cuda] [--networks resnet18-64 ...] [--cpu-time]

from the root of the repository, with PYTHONPATH=. where the package is not installed. Writes
benchmarks/results/train_step_DEVICE.json, where other networks' rows stay, and prints the table.

A step is `pretrain.step.TrainStep`'s: colors, momentum update, forwards, losses, backward,
clipping,
SGD and queues, on views that are already cut, as a worker hands them over. Contestants take turns
in one process, in random order; times are medians, ratios medians of the ratios within a turn.

- bound: as many forwards with backward (queries) and without (keys) of the bare network on
  normalized views: PyTorch's own layers, plain batch norm, no loss and no optimizer.
- bound, our layers: the same with the convolutions that training uses on a CPU.
- lightly: the symmetric MoCo step built from its modules as its own benchmark does, for MoCo.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from surroundings import surroundings
from torch import Tensor, nn

from pretrain.config import RunSettings, from_values
from pretrain.data import augment
from pretrain.data.plan import Batch
from pretrain.distributed import World
from pretrain.methods.base import Context
from pretrain.methods.build import build_method
from pretrain.models import Encoder, momentum_copy, use_products
from pretrain.step import TrainStep

RESULTS = Path(__file__).parent / "results"
QUEUE = 4096
PACKAGES = ("torch", "torchvision", "timm", "lightly")


@dataclass(frozen=True)
class Network:
    """A backbone, the side of its views (px), and the batch and groups of batch norm."""

    backbone: str
    size: int
    batch: int
    group: int


NETWORKS = {
    "resnet18-48": Network("resnet18", 48, 64, 16),
    "resnet18-64": Network("resnet18", 64, 64, 16),
    "resnet10t-48": Network("timm/resnet10t", 48, 64, 16),
    "resnet50-224": Network("resnet50", 224, 8, 4),
}
ON_CUDA = {"resnet50-224": 128, "resnet18-48": 256, "resnet18-64": 256, "resnet10t-48": 256}
"""Batches there."""

PASSES = {"moco": (2, 0), "densecl": (1, 0), "byol": (2, 0), "orl": (2, 4)}
"""Views of full and of half size that a method encodes as queries, and as many as keys."""

Step = Callable[[], object]


def main() -> None:
    """Time what was asked for, then write JSON and table."""
    arguments = _parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    file = RESULTS / f"train_step_{arguments.device}.json"
    about = {
        **surroundings(arguments.device, PACKAGES),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if arguments.cpu_time else "wall time",
    }
    if load_lightly() is None:
        print("lightly is not installed: no comparison with it")
    for name in arguments.networks:
        for method in arguments.methods:
            for branch in (False, True):
                row = measure(arguments, NETWORKS[name], method, branch)
                key = f"{name} {method}{'+hcl' if branch else ''} {arguments.precision}"
                print(f"{key}: {json.dumps(row)}", flush=True)
                rows = {**_written(file), key: {**row, "about": about}}
                file.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(table(_written(file)))


def _written(file: Path) -> dict[str, Any]:
    """The rows that are there, by name."""
    if not file.is_file():
        return {}
    rows: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU; all, if not given")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU seconds of the process: for one thread on a machine that others use",
    )
    return parser


def measure(
    arguments: argparse.Namespace, network: Network, method: str, branch: bool
) -> dict[str, Any]:
    """Seconds of a step of every contestant, and ratios."""
    batch = network.batch if arguments.device == "cpu" else ON_CUDA[_name(network)]
    settings = run_settings(arguments, network, method, branch, batch)
    contestants = {"ours": our_step(settings), **bounds(settings, method, branch)}
    lightly = load_lightly()
    if lightly is not None and method == "moco" and not branch:
        contestants["lightly"] = lightly_step(lightly, settings)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.repeats + 1):
        for name in random.sample(list(contestants), len(contestants)):
            spent = _seconds(contestants[name], arguments)
            if turn:  # the first one warms up
                seconds[name].append(spent)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    shares = {
        f"of {name}": statistics.median(
            other / own for other, own in zip(values, seconds["ours"], strict=True)
        )
        for name, values in seconds.items()
        if name != "ours"
    }
    return {
        "batch": batch,
        "images_per_s": round(batch / median["ours"], 1),
        "seconds": {name: round(value, 4) for name, value in median.items()},
        "speed": {name: round(value, 3) for name, value in shares.items()},
    }


def _name(network: Network) -> str:
    return next(name for name, one in NETWORKS.items() if one == network)


def _seconds(step: Step, arguments: argparse.Namespace) -> float:
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    start = clock()
    step()
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def run_settings(
    arguments: argparse.Namespace, network: Network, method: str, branch: bool, batch: int
) -> RunSettings:
    """The run whose steps are timed."""
    bootstraps = method in ("byol", "orl")
    own: dict[str, Any] = {"name": method}
    if not bootstraps:
        own |= {"queue": QUEUE, "norm_group": network.group}
    if method == "orl":
        own["patch_size"] = network.size // 2
    head = {"head": "mlp_bn", "hidden": 512, "dim": 128} if bootstraps else {}
    values: dict[str, Any] = {
        "output": "unused",
        "data": {"annotations": "unused", "images": "unused"},
        "views": {"size": network.size},
        "model": {"backbone": network.backbone, **head},
        "method": own,
        "optim": {"batch_size": batch, "lr": 0.01, "clip_norm": 1.0},
        "train": {"steps": 1000, "precision": arguments.precision, "device": arguments.device},
    }
    if branch:
        values["hcl"] = {"queue": QUEUE}
    return from_values(values, source="benchmark")


def our_step(settings: RunSettings) -> Step:
    """A whole step, colors included."""
    torch.manual_seed(0)
    batch, device = settings.optim.batch_size, torch.device(settings.train.device)
    context = Context(settings.model, settings.views.size, batch, batch, 0)
    method = build_method(settings.method, settings.hcl, context)
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    if device.type == "cpu":
        use_products(method)
    stepper = TrainStep(
        settings, World(0, 1, 0, 1, device), method, total_steps=1000, epoch_steps=10
    )
    rng = np.random.default_rng(0)
    images, colors = {}, {}
    for name, side in stepper.sides.items():
        images[name] = torch.from_numpy(rng.integers(0, 256, (batch, 3, side, side), np.uint8))
        drawn = [augment.draw(rng, stepper.colors[name], side) for _ in range(batch)]
        colors[name] = torch.from_numpy(np.stack(drawn))
    rows = torch.arange(batch)
    given = Batch(images, colors, rows, torch.zeros(batch, dtype=torch.bool), [])
    done = iter(range(1000))
    return lambda: stepper.run(method, given, next(done), stop=False, log_statistics=False)


def bounds(settings: RunSettings, method: str, branch: bool) -> dict[str, Step]:
    """The bare network's forwards and backwards, with PyTorch's layers and with ours."""
    device = torch.device(settings.train.device)
    network: nn.Module = Encoder(settings.model)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    full, half = PASSES[method]
    size, batch = settings.views.size, settings.optim.batch_size
    sides = [size] * (full + branch) + [size // 2] * half
    views = [
        torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
        for side in sides
    ]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settings.train.precision]

    def step(bare: nn.Module) -> None:
        for view in views:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output: Tensor = bare(view)
            output.float().square().mean().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for view in views:
                bare(view)
        bare.zero_grad(set_to_none=True)

    found: dict[str, Step] = {"bound": lambda: step(network)}
    if device.type == "cpu":
        own = use_products(copy.deepcopy(network))
        found["bound, our layers"] = lambda: step(own)
    return found


def load_lightly() -> Any:
    """Its modules, or None where it is not installed."""
    try:
        import lightly.loss  # noqa: PLC0415
        import lightly.models.utils  # noqa: PLC0415
    except ImportError:
        return None
    return lightly


def lightly_step(lightly: Any, settings: RunSettings) -> Step:
    """The symmetric MoCo step: queries, keys in shuffled order, two memory banks, SGD."""
    device, batch = torch.device(settings.train.device), settings.optim.batch_size
    query: nn.Module = Encoder(settings.model)
    query.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    key = momentum_copy(query)
    utils = lightly.models.utils
    bank = (QUEUE, settings.model.dim)
    losses = [
        lightly.loss.NTXentLoss(temperature=0.2, memory_bank_size=bank).to(device) for _ in range(2)
    ]
    optimizer = torch.optim.SGD(query.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    side = settings.views.size
    views = [
        torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
        for _ in range(2)
    ]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settings.train.precision]

    @torch.no_grad()
    def keys(images: Tensor) -> Tensor:
        shuffled, order = utils.batch_shuffle(images)
        found: Tensor = utils.batch_unshuffle(key(shuffled), order)
        return found

    def step() -> None:
        utils.update_momentum(query, key, 0.99)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            asked = [query(view) for view in views]
            answers = [keys(view) for view in views]
        terms = [losses[n](asked[n].float(), answers[1 - n].float()) for n in (0, 1)]
        optimizer.zero_grad()
        (0.5 * (terms[0] + terms[1])).backward()
        nn.utils.clip_grad_norm_(query.parameters(), 1.0)
        optimizer.step()

    return step


def table(rows: dict[str, Any]) -> str:
    """Markdown: images a second and shares of the bounds."""
    others = ("bound", "bound, our layers", "lightly")
    lines = [
        "| network, view, method, precision | images/s | of bound | our layers | lightly |",
        "|---|--:|--:|--:|--:|",
    ]
    for key, row in sorted(rows.items()):
        shares = (row["speed"].get(f"of {name}") for name in others)
        cells = " | ".join("" if share is None else f"{share:.2f}" for share in shares)
        lines.append(f"| {key} | {row['images_per_s']:.0f} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
