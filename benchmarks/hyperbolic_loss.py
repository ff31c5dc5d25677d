"""Time, memory and accuracy of InfoNCE with hyperbolic distances against a queue.

    python benchmarks/hyperbolic_loss.py time   [--device cuda] [--seconds 420]
    python benchmarks/hyperbolic_loss.py memory
    python benchmarks/hyperbolic_loss.py errors

from the root of the repository, with PYTHONPATH=. where the package is not installed. Each writes
benchmarks/results/hyperbolic_loss_<what>_<device>.json and prints a table.

Times are of forward and backward with respect to the queries, float32, D = 128. Contestants take
turns in random order in one process; a ratio is the median of the ratios within one turn. On a
CPU the process starts itself again with an allocator that keeps freed memory (as CUDA's does):
otherwise the contestants with gigabytes of temporaries are punished by page faults as well, and
the ratios come out 1.4 to 2.8 times larger.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from surroundings import surroundings
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry import gram, lorentz, official, poincare
from pretrain.losses import hyperbolic_info_nce, info_nce

try:
    import geoopt
except ImportError:
    geoopt = None

ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
RESULTS = Path(__file__).parent / "results"
D, C, T = 128, 1.0, 0.2
SHAPES = [(n, k) for k in (4096, 16384, 65536) for n in (32, 128, 256)]
BROADCAST = ("official", "geoopt")  # hold N x K x D tensors
SLOW = (*BROADCAST, "plain")
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Run = Callable[[], None]
Distance = Callable[[Tensor, Tensor], Tensor]
BROADCAST_BYTES = 6.14 * 4  # peak of the official formulation, per element of N x K x D


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("time", "memory", "errors", "one"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=420, help="for all shapes together")
    parser.add_argument("--gigabytes", type=float, default=8, help="the largest peak allowed")
    parser.add_argument("--case", help="one contestant,N,K (used by memory)")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and os.environ.get("MALLOC_MMAP_MAX_") != "0":
        environment = {**os.environ, **ALLOCATOR, "HCL_COMPILE": "always"}
        os.execve(sys.executable, [sys.executable, __file__, *arguments], environment)

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.what == "one":
        print(peak_memory(options))
        return 0
    started = {
        **surroundings(options.device, ("torch", "geoopt")),
        "threads": options.threads,
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR},
        "settings": {"D": D, "c": C, "temperature": T, "dtype": "float32"},
    }
    measure = {"time": measure_time, "memory": measure_memory, "errors": measure_errors}
    report = {**started, options.what: measure[options.what](options)}
    report["load_after"] = os.getloadavg()
    file = RESULTS / f"hyperbolic_loss_{options.what}_{options.device}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    return 0


# ------------------------------------------------------------------------------ contestants


def official_distance(x: Tensor, y: Tensor) -> Tensor:
    """The reference formulation: a Möbius sum for every pair, with its epsilons."""
    return 2 / C**0.5 * official._artanh(C**0.5 * official.mobius_add(-x, y, C).norm(dim=-1))


def cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    logits = torch.cat([positive[:, None], negatives], dim=1) / T
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, labels)


def contestants(device: str) -> dict[str, Loss]:
    """Name to loss(query, key, queue); names with "euclidean" take unit vectors."""

    def broadcast(x: Tensor, y: Tensor, queue: Tensor) -> Tensor:
        return cross_entropy(-official_distance(x, y), -official_distance(x[:, None], queue[None]))

    def euclidean_usual(x: Tensor, y: Tensor, queue: Tensor) -> Tensor:
        return cross_entropy(torch.einsum("nd,nd->n", x, y), torch.einsum("nd,kd->nk", x, queue))

    found: dict[str, Loss] = {"official": broadcast}
    if geoopt is None:
        print("geoopt is not installed: left out")
    else:
        ball = geoopt.PoincareBall(c=C).to(device)
        found["geoopt"] = lambda x, y, queue: cross_entropy(
            -ball.dist(x, y), -ball.dist(x[:, None], queue[None])
        )
    paths = ("plain", "matrix", "streaming", *(("triton",) if device == "cuda" else ()))
    for path in paths:
        found[path] = functools.partial(hyperbolic_info_nce, c=C, temperature=T, path=path)
    found["euclidean usual"] = euclidean_usual
    for path in paths[2:]:
        found[f"euclidean {path}"] = functools.partial(info_nce, temperature=T, path=path)
    return found


def inputs(n: int, k: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Ball points of norm about 0.5 and the same features as unit vectors: three tensors each."""
    features = torch.randn(2 * n + k, D, generator=torch.Generator().manual_seed(0))
    both = poincare.to_ball(features * 0.05, C), F.normalize(features, dim=1)
    sizes = (n, n, k)
    ball, unit = ([part.clone().to(device) for part in points.split(sizes)] for points in both)
    return ball, unit


def step(loss: Loss, query: Tensor, key: Tensor, queue: Tensor) -> None:
    query = query.detach().requires_grad_()
    loss(query, key, queue).backward()


def fits(name: str, n: int, k: int, options: argparse.Namespace) -> bool:
    return name not in BROADCAST or BROADCAST_BYTES * n * k * D < options.gigabytes * 2**30


# ------------------------------------------------------------------------------------- time


def measure_time(options: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    everyone = contestants(options.device)
    for n, k in SHAPES:
        ball, unit = inputs(n, k, options.device)
        runs = {
            name: functools.partial(step, loss, *(unit if "euclidean" in name else ball))
            for name, loss in everyone.items()
            if fits(name, n, k, options)
        }
        seconds = turns(runs, options)
        row: dict[str, object] = {"N": n, "K": k, "turns": len(seconds["streaming"])}
        row["milliseconds"] = {
            name: 1e3 * statistics.median(found) for name, found in seconds.items()
        }
        best = "triton" if options.device == "cuda" else "streaming"
        row[f"time of {best} relative to"] = {
            name: ratio(seconds[best], found) for name, found in seconds.items() if name != best
        }
        print_row(row, best)
        rows.append(row)
    return rows


def turns(runs: dict[str, Run], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each turn; the slow contestants sit out after three."""

    def clock(run: Run) -> float:
        started = time.perf_counter()
        run()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for name, run in runs.items():  # compile, and let the allocator grow
        clock(run)
        if name not in SLOW:
            clock(run)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    deadline = time.perf_counter() + options.seconds / len(SHAPES)
    while len(seconds["streaming"]) < 5 or time.perf_counter() < deadline:
        playing = [name for name in runs if name not in SLOW or len(seconds[name]) < 3]
        for name in random.sample(playing, len(playing)):
            seconds[name].append(clock(runs[name]))
        if len(seconds["streaming"]) >= 200:
            break
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the turns in which both took part, which are the first ones."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=False))


def print_row(row: dict[str, object], best: str) -> None:
    relative = row[f"time of {best} relative to"]
    milliseconds = row["milliseconds"]
    assert isinstance(relative, dict)
    assert isinstance(milliseconds, dict)
    print(f"N {row['N']:>4} K {row['K']:>6} {best} {milliseconds[best]:8.2f} ms", end="")
    for name, value in relative.items():
        text = f"1/{1 / value:.0f}" if value < 0.1 else f"{value:.2f}"
        print(f" | {name} {text}", end="")
    print(flush=True)


# ----------------------------------------------------------------------------------- memory


def measure_memory(options: argparse.Namespace) -> list[dict[str, object]]:
    """Extra peak memory in MiB, each case in a process of its own."""
    rows = []
    for n, k in ((32, 16384), (32, 65536), (128, 65536), (256, 4096), (256, 16384), (256, 65536)):
        row: dict[str, object] = {"N": n, "K": k}
        for name in contestants(options.device):
            if name in SLOW and (n, k) != (32, 16384):
                continue
            command = [sys.executable, __file__, "one", "--case", f"{name},{n},{k}"]
            # The system's own allocator, which gives memory back: here only the peak counts.
            child = {**os.environ, "HCL_COMPILE": "always", "MALLOC_TRIM_THRESHOLD_": "0"}
            command += ["--device", options.device, "--threads", str(options.threads)]
            done = subprocess.run(command, env=child, capture_output=True, text=True, check=True)
            row[name] = float(done.stdout.split()[-1])
        rows.append(row)
        print(row, flush=True)
    return rows


def peak_memory(options: argparse.Namespace) -> float:
    """MiB above what is held before the step, after one step that compiles."""
    name, n, k = options.case.split(",")
    loss = contestants(options.device)[name]
    ball, unit = inputs(int(n), int(k), options.device)
    run = functools.partial(step, loss, *(unit if "euclidean" in name else ball))
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def resident(field: str) -> int:
    """KiB of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


# ----------------------------------------------------------------------------------- errors


def measure_errors(options: argparse.Namespace) -> dict[str, object]:  # noqa: ARG001
    """Median relative error of float32 distances and gradients, and of whole losses."""
    pairs = {}
    for radius, apart in (
        (0.01, None), (0.5, None), (0.5, 0.01), (0.9, 1.0), (0.9, 0.1), (0.99, 1.0), (0.99, 0.1),
        (0.999, None), (0.999, 1.0), (0.999, 0.1), (1 - 1e-5, None), (1 - 1e-6, None),
    ):  # fmt: skip
        name = f"r={radius:g} " + ("far" if apart is None else f"d={apart:g}")
        pairs[name] = pair_errors(radius, apart)
        print(f"{name:14}", {k: tuple(f"{v:.0e}" for v in e) for k, e in pairs[name].items()})
    losses = {}
    for c, temperature in ((1.0, 0.2), (0.05, 0.2)):
        for name in ("interior", "spread", "rim with near duplicates"):
            label = f"c={c} T={temperature} {name}"
            losses[label] = loss_errors(name, c, temperature)
            print(label, {k: tuple(f"{v:.0e}" for v in e) for k, e in losses[label].items()})
    return {"pairs": pairs, "losses": losses}


def pair_errors(radius: float, apart: float | None) -> dict[str, tuple[float, float]]:
    """Points of one norm, in random directions or at one hyperbolic distance; c = 1."""
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(2, 64, D, generator=generator, dtype=torch.float64)
    x, y = radius * direction / direction.norm(dim=-1, keepdim=True)
    if apart is not None:
        u = poincare.logmap(x, y, 1.0)
        scale = apart / (u.norm(dim=1) * poincare.conformal_factor(x, 1.0))
        y = poincare.expmap(x, u * scale[:, None], 1.0)
    x, y = x.float(), y.float()

    def evaluate(distance: Distance, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = x.to(dtype).requires_grad_()
        d = distance(leaf, y.to(dtype))
        return d.detach(), torch.autograd.grad(d.sum(), leaf)[0]

    def lifted(a: Tensor, b: Tensor) -> Tensor:
        one, other = lorentz.from_poincare(a, 1.0), lorentz.from_poincare(b, 1.0)
        return gram.pairwise_lorentz_distance(one, other, 1.0).diagonal()

    exact = evaluate(lambda a, b: poincare.distance(a, b, 1.0), torch.float64)
    methods = {
        "official": official_distance,
        "differences": lambda a, b: poincare.distance(a, b, 1.0),
        "matrix": lambda a, b: gram.pairwise_distance(a, b, 1.0).diagonal(),
        "hyperboloid from ball": lifted,
    }
    errors = {}
    for name, method in methods.items():
        d, grad = evaluate(method, torch.float32)
        value = ((d - exact[0]).abs() / exact[0]).median().item()
        rows = ((grad - exact[1]).norm(dim=1) / exact[1].norm(dim=1)).median().item()
        errors[name] = (value, rows)
    return errors


def loss_errors(name: str, c: float, temperature: float) -> dict[str, tuple[float, float]]:
    """64 queries, 4096 negatives: relative error of the loss and of the gradient's norm."""
    generator = torch.Generator().manual_seed(2)
    n, k = 64, 4096
    x = torch.randn(2 * n + k, D, generator=generator, dtype=torch.float64)
    low, high = {"interior": (0.3, 0.9), "spread": (0.5, 0.999)}.get(name, (0.999, 0.999))
    norms = low + (high - low) * torch.rand(len(x), 1, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True) * norms / c**0.5
    # Positives lie at distance 1/√c, and in the last case every fiftieth negative is near a query.
    near = [(n + i, i, 1.0) for i in range(n)]
    if name == "rim with near duplicates":
        near += [(2 * n + j, j % n, 0.05 + 2 * j / k) for j in range(0, k, 50)]
    for place, anchor, apart in near:
        u = poincare.logmap(x[anchor], x[place], c)
        u = u / (u.norm() * poincare.conformal_factor(x[anchor], c)) * apart / c**0.5
        x[place] = poincare.project(poincare.expmap(x[anchor], u, c), c)
    x = x.float()

    def evaluate(dtype: torch.dtype, **options: str) -> tuple[float, Tensor]:
        query, key, queue = (part.to(dtype) for part in x.split((n, n, k)))
        query = query.clone().requires_grad_()
        loss = hyperbolic_info_nce(query, key, queue, c=c, temperature=temperature, **options)
        return loss.item(), torch.autograd.grad(loss, query)[0]

    exact = evaluate(torch.float64, path="plain")
    runs = {"official": {"numerics": "official"}}
    runs.update({path: {"path": path} for path in ("plain", "matrix", "streaming")})
    errors = {}
    for label, choice in runs.items():
        value, grad = evaluate(torch.float32, **choice)
        off = (grad - exact[1]).norm() / exact[1].norm()
        errors[label] = (abs(value - exact[0]) / exact[0], off.item())
    return errors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
