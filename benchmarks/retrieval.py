"""Exact nearest neighbors in the ball, on the sphere and fused: time, memory, correctness.

    PYTHONPATH=. python benchmarks/retrieval.py [--turns 7] [--threads 2]
    PYTHONPATH=. python benchmarks/retrieval.py --check

The first writes benchmarks/results/retrieval_cpu.json, the second retrieval_check_cpu.json. A peer
that may be missing: pip install pytorch-metric-learning.

Times are of the 10 nearest of each of 10,000 points, 128 numbers a point, all preparation included.
Contestants take turns in random order; a ratio is the median of the ratios within one turn. The
slow ones answer a part of the queries, and their time is multiplied up: it is linear in them.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from retrieval_data import clusters, spread
from surroundings import surroundings
from torch import Tensor

from downstream.retrieval.neighbors import nearest
from downstream.retrieval.recall import recall_at_k
from downstream.retrieval.spaces import Ranking, ball, fused, sphere

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "faiss-cpu", "pytorch-metric-learning")
N, D, K = 10_000, 128, 10
C = 1.0
SOP = 60_502
MEMORY = ("imports", "hyperbolic", "euclidean", "fused", "recall", "recall to 1000")
Run = Callable[[], np.ndarray]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--queries", type=int, default=200, help="that slow contestants answer")
    parser.add_argument("--check", action="store_true", help="correctness on 100,000 points")
    parser.add_argument("--asked", type=int, help="queries of --check (default: all)")
    parser.add_argument("--exhaustive", type=int, default=1000, help="of these, by all differences")
    parser.add_argument("--points", type=int, default=100_000, help="of --check")
    parser.add_argument("--one", choices=MEMORY, help="peak memory of this process, for one task")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.one:
        print(peak_memory(options.one))
        return 0
    record: dict[str, object] = {
        "surroundings": surroundings(packages=PACKAGES),
        "threads": options.threads,
    }
    if options.check:
        from retrieval_check import check  # noqa: PLC0415  # see peak_memory

        record["check"] = check(options.points, K, options.asked, options.exhaustive)
        file = RESULTS / "retrieval_check_cpu.json"
    else:
        record["size"] = {"points": N, "dimension": D, "k": K, "queries of slow": options.queries}
        record["time"] = measure_time(options)
        record["memory"] = measure_memory(options)
        file = RESULTS / "retrieval_cpu.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


# ------------------------------------------------------------------------------------- time


def measure_time(options: argparse.Namespace) -> dict[str, object]:
    rng = np.random.default_rng(0)
    data = {
        "norms 0.3 to 0.9": spread(rng, N, D, 0.3, 0.9),
        "clusters at 0.999": 0.999 * clusters(rng, N, D, 20, 0.01),
    }
    return {name: measure_data(points, options) for name, points in data.items()}


def measure_data(points: np.ndarray, options: argparse.Namespace) -> dict[str, object]:
    import retrieval_peers as peers  # noqa: PLC0415  # see peak_memory

    table = torch.from_numpy(points).float()
    unit = torch.nn.functional.normalize(table, dim=1)
    some = torch.from_numpy(np.random.default_rng(1).permutation(N)[: options.queries])
    all_rows = torch.arange(N)
    in_ball, on_sphere, missing = peers.metric_learning()
    slow = {
        "reference, 20 rows at a time": functools.partial(peers.reference, table, some, K),
        "row loop": functools.partial(peers.row_loop, table, some, K),
        "float64 differences": functools.partial(peers.differences, table, some, K),
    }
    runs: dict[str, Run] = {
        "hyperbolic": lambda: nearest(ball(table, C), K),
        "hyperbolic, engine faiss": lambda: nearest(ball(table, C), K, engine="faiss"),
        "euclidean": lambda: nearest(sphere(unit), K),
        "fused": lambda: nearest(both(unit, table), K),
        "lift in FAISS, float32, unproved": functools.partial(
            peers.lift_to_faiss, table, all_rows, K
        ),
        "lift, float64, unproved": functools.partial(peers.lift_in_double, table, all_rows, K),
        **{name: functools.partial(peer, table, all_rows, K) for name, peer in in_ball.items()},
        **{name: functools.partial(peer, unit, all_rows, K) for name, peer in on_sphere.items()},
        **slow,
    }
    factor = {name: N / len(some) if name in slow else 1.0 for name in runs}
    seconds, answers = turns(runs, options.turns, factor)
    right = answers["float64 differences"]
    return {
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "times as long as hyperbolic": ratios(seconds, "hyperbolic"),
        "times as long as euclidean": ratios(seconds, "euclidean"),
        "times as long as fused": ratios(seconds, "fused"),
        "extrapolated": list(slow),
        "queries with the 10 of float64 differences in their order": {
            name: float((part(found, some) == right).all(axis=1).mean())
            for name, found in answers.items()
            if name not in {"euclidean", "fused", *on_sphere}
        },
        "left out": missing,
    }


def part(found: np.ndarray, some: Tensor) -> np.ndarray:
    return found if len(found) == len(some) else found[some.numpy()]


def both(unit: Tensor, table: Tensor) -> Ranking:
    shares = {"temperature_spherical": 0.05, "temperature_hyperbolic": 0.2, "weight": 3.0}
    return fused(unit, table, C, **shares)


def turns(
    runs: dict[str, Run], count: int, factor: dict[str, float]
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of each turn, multiplied up, and the answers; a turn to warm up is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers = {name: run() for name, run in runs.items()}
    for turn in range(count):
        for name in random.sample(list(runs), len(runs)):
            started = time.perf_counter()
            runs[name]()
            seconds[name].append((time.perf_counter() - started) * factor[name])
        print(f"turn {turn + 1}", {n: round(s[-1], 2) for n, s in seconds.items()}, flush=True)
    return seconds, answers


def ratios(seconds: dict[str, list[float]], ours: str) -> dict[str, float]:
    return {
        name: statistics.median(a / b for a, b in zip(found, seconds[ours], strict=True))
        for name, found in seconds.items()
        if name != ours
    }


# ----------------------------------------------------------------------------------- memory


def measure_memory(options: argparse.Namespace) -> dict[str, object]:
    """Peak resident memory in MiB of a process that imports, makes SOP-sized points, and ranks."""
    found: dict[str, object] = {"points": SOP}
    for task in MEMORY:
        command = [sys.executable, __file__, "--one", task, "--threads", str(options.threads)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[task] = {"MiB": int(done.stdout), "seconds": round(time.perf_counter() - started, 1)}
        print(task, found[task], flush=True)
    return found


def peak_memory(task: str) -> int:
    """MiB, without the peers, which are not loaded."""
    rng = np.random.default_rng(0)
    if task != "imports":
        # Some 5 images a product, as SOP has.
        points = 0.7 * clusters(rng, SOP, D, 5, 0.5, dtype=np.float32)
        labels = np.arange(SOP) // 5
    if task == "hyperbolic":
        nearest(ball(points, C), K)
    elif task == "euclidean":
        nearest(sphere(points), K)
    elif task == "fused":
        nearest(both(torch.from_numpy(points), torch.from_numpy(points)), K)
    elif task.startswith("recall"):
        ks = [1, 10] if task == "recall" else [1, 10, 100, 1000]
        recall_at_k(points, labels, ks, geometry="hyperbolic", c=C)
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
