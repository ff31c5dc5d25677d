"""Does training with the HCL branch stay finite? 2,000 steps, four ways, at a large rate.

    python benchmarks/stability.py          # all of it: scenes, four runs, costs, picture
    python benchmarks/stability.py all --name 'learned c, fp32'   # some again; the rest is kept
    python benchmarks/stability.py plot     # the picture alone, from the JSON

from the root of the repository, with PYTHONPATH=. where the package is not installed. It writes
benchmarks/results/stability_cpu.json and stability.png, and exits with 1 if anything was ever
non-finite.

The runs are those of `hcl pretrain`, one after the other, each in a process of its own:
MoCo-v2 + HCL on embedded scenes, with c fixed and learned, in fp32 and bf16. The rate is four
times the COCO recipe's (0.3 for 256 images, scaled to the batch), constant, without warm-up and
without any clipping. For two CPU cores the ResNet-18 has a quarter of its width and views are 48
pixels; everything else is the trainer's. Hooks on the optimizer look at every gradient and every
weight of every step; the trainer itself refuses a loss that is not finite.

The picture shows the points that the loss sees: queries are scenes, encoded by the query encoder,
and keys are objects, encoded by the momentum encoder. So the gap between the two curves contains
the lag of that encoder, and is no measure of scenes against objects. The committed figures are of
runs with queues of 2,048 keys, two passes over the 1,024 images; the settings now have 256.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import torchvision
from surroundings import surroundings
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from pretrain.__main__ import COMMAND as PRETRAIN
from pretrain.geometry import poincare
from pretrain.losses import hyperbolic_info_nce
from pretrain.losses.stats import ball_stats, logit_stats
from pretrain.losses.tangent import hyperbolic_info_nce_of_tangents, moving_point
from pretrain.metrics import read_metrics

mpl.use("Agg")

RESULTS = Path(__file__).parent / "results"
STEPS, BATCH, SIZE, WIDTH_SHARE = 2000, 16, 48, 4
RECIPE_RATE = 0.3 * BATCH / 256
RATE = 4 * RECIPE_RATE
RUNS = {
    f"{curvature} c, {precision}": (curvature == "learned", precision)
    for curvature in ("fixed", "learned")
    for precision in ("fp32", "bf16")
}
SETTINGS: dict[str, Any] = {
    "data.workers": 1,
    "views.size": SIZE,
    "views.context": 32,
    "model.backbone": "resnet18",
    "model.dim": 128,
    "method.symmetric": False,
    "method.momentum": 0.99,
    "method.queue": 256,
    "method.norm_group": BATCH // 2,
    "hcl.weight": 0.1,
    "hcl.curvature": 0.05,
    "hcl.queue": 256,
    "optim.batch_size": BATCH,
    "optim.lr": RATE,
    "optim.schedule": "constant",
    "optim.warmup_steps": 0,
    "optim.clip_norm": None,
    "train.epochs": None,
    "train.steps": STEPS,
    "train.device": "cpu",
    "train.threads": 1,
    "train.log_every": 10,
    "train.checkpoint_every": 500,
    "train.tensorboard": False,
}
SCENES = ["--images", "1024", "--val", "8", "--size", "128", "--seed", "7", "--workers", "1"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", nargs="?", default="all", choices=("all", "plot", "one", "cost"))
    parser.add_argument("--name", choices=RUNS, action="append", help="which; default: all")
    parser.add_argument("--folder", type=Path, help="of the run (used by all)")
    parser.add_argument("--scenes", type=Path, help="the data (used by all)")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try it out")
    options = parser.parse_args(arguments)
    file = RESULTS / "stability_cpu.json"
    torch.set_num_threads(1)
    if options.what == "one":
        return one(options.name[0], options.folder, options.scenes, options.steps)
    if options.what == "cost":
        print(json.dumps(costs(), indent=1))
        return 0
    if options.what == "all":
        started = {
            **surroundings(),
            "threads": 1,
            "settings": SETTINGS,
            "rate_over_recipe": RATE / RECIPE_RATE,
            "network": f"ResNet-18 of 1/{WIDTH_SHARE} of the width",
            "scenes": " ".join(SCENES),
        }
        kept = json.loads(file.read_text())["runs"] if options.name else {}
        runs = {**kept, **run_all(options.name or list(RUNS), options.steps)}
        report = {**started, "cost_ms": costs(), "runs": runs, "load_after": os.getloadavg()}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(report) + "\n")
    report = json.loads(file.read_text())
    plot(report, RESULTS / "stability.png")
    sound = True
    for name, run in report["runs"].items():
        print(f"{name:18} {run['seconds']:6.0f} s  {summary(run)}")
        sound &= run["finite"]
    print("finite throughout" if sound else "NOT finite throughout")
    return 0 if sound else 1


def summary(run: dict[str, Any]) -> str:
    def last(key: str) -> float:
        return statistics.fmean(run["values"][key][-10:])

    keys = (
        *("loss", "curvature", "hyperbolic/query/distance", "hyperbolic/key/distance"),
        "hyperbolic/query/projected",
    )
    return "  ".join(f"{key} {last(key):.4g}" for key in keys)


# --------------------------------------------------------------------------------- the runs


def run_all(names: list[str], steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        root = Path(__file__).resolve().parent.parent
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        scenes = [sys.executable, str(root / "hcl.py"), "data", "scenes", str(folder / "set")]
        subprocess.run([*scenes, *SCENES], env=environment, check=True)
        found = {}
        for place, run in enumerate(names):
            output = folder / f"run{place}"
            command = [sys.executable, __file__, "one", "--name", run, "--folder", str(output)]
            command += ["--scenes", str(folder / "set"), "--steps", str(steps)]
            started = time.monotonic()
            with (folder / f"log{place}").open("w") as log:
                done = subprocess.run(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
                )
            seconds = time.monotonic() - started
            found[run] = collect(output, steps, done.returncode, seconds)
            found[run]["commit"] = surroundings()["commit"]
            if not found[run]["finite"]:
                log_text = (folder / f"log{place}").read_text()
                found[run]["last lines"] = log_text.splitlines()[-3:]
            print(f"{run:18} {seconds:6.0f} s  finite: {found[run]['finite']}", flush=True)
        return found


def one(name: str, output: Path, scenes: Path, steps: int) -> int:
    """One run of `hcl pretrain`, watched."""
    torchvision.models.resnet18 = Narrow
    watch = Watch()
    register_optimizer_step_pre_hook(watch.gradients)
    register_optimizer_step_post_hook(watch.weights)
    learned, precision = RUNS[name]
    values = {
        **SETTINGS,
        "output": str(output),
        "name": name,
        "data.annotations": str(scenes / "annotations/instances_train.json"),
        "data.images": str(scenes / "train"),
        "data.index": str(scenes.parent / "index"),
        "hcl.learn_curvature": learned,
        "train.precision": precision,
        "train.steps": steps,
    }
    status = PRETRAIN.main(
        ["quickstart", *(f"{key}={json.dumps(value)}" for key, value in values.items())]
    )
    (output / "watch.json").write_text(json.dumps(watch.seen))
    return status


class Watch:
    """Looks at every gradient and weight of every step."""

    def __init__(self) -> None:
        self.seen = {"steps": 0, "non_finite_gradients": 0, "non_finite_weights": 0}

    def gradients(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.seen["steps"] += 1
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        self.seen["non_finite_gradients"] += count(gradients)

    def weights(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.seen["non_finite_weights"] += count(parameters(optimizer))


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def count(tensors: list[Tensor]) -> int:
    """Of the tensors with a number that is not finite."""
    # A sum of squares in float32 might overflow by itself; the largest absolute value cannot.
    largest = torch.stack([part.double() for part in torch._foreach_norm(tensors, float("inf"))])
    return int((~torch.isfinite(largest)).sum())


class Narrow(torchvision.models.ResNet):
    """ResNet-18 with a share of its width."""

    def __init__(self, weights: None = None) -> None:
        block = torchvision.models.resnet.BasicBlock
        super().__init__(block, [2, 2, 2, 2])
        self.inplanes = 64 // WIDTH_SHARE
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        for place in range(4):
            planes, stride = 64 * 2**place // WIDTH_SHARE, 1 if place == 0 else 2
            setattr(self, f"layer{place + 1}", self._make_layer(block, planes, 2, stride))
        self.fc = nn.Linear(512 // WIDTH_SHARE, 1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def collect(output: Path, steps: int, status: int, seconds: float) -> dict[str, Any]:
    lines = read_metrics(output / "metrics.jsonl")
    file = output / "watch.json"
    watched = json.loads(file.read_text()) if file.is_file() else {}
    values: dict[str, list[Any]] = {}
    for line in lines:
        for key, value in line.items():
            values.setdefault(key, []).append(rounded(value))
    whole = watched.get("steps") == steps and values.get("step", [0])[-1] == steps
    clean = watched.get("non_finite_gradients") == 0 and watched.get("non_finite_weights") == 0
    finite = all(torch.isfinite(torch.tensor(column)).all() for column in values.values())
    return {
        "finite": bool(status == 0 and whole and clean and finite),
        "status": status,
        "seconds": seconds,
        "watched": watched,
        "largest_gradient_norm": max(values.get("gradient_norm", [0.0])),
        "values": values,
    }


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [round(part, 4) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


# ------------------------------------------------------------------------------------ costs


def costs() -> dict[str, float]:
    """Milliseconds on one thread: of statistics, of the gradient's norm, of a learned c."""
    found = {}
    for n, k in ((BATCH, 2048), (256, 65536)):
        generator = torch.Generator().manual_seed(0)
        raw, key, queue = (torch.randn(rows, 128, generator=generator) * 0.3 for rows in (n, n, k))
        x, y, points = (poincare.to_ball(part, 0.05) for part in (raw, key, queue))

        def statistics_of_a_step(x: Tensor = x, y: Tensor = y, points: Tensor = points) -> None:
            ball_stats(x, 0.05)
            ball_stats(y, 0.05)
            logit_stats(x, y, points, temperature=0.2, c=0.05)

        def fixed(raw: Tensor = raw, y: Tensor = y, points: Tensor = points) -> None:
            query = poincare.to_ball(raw.clone().requires_grad_(), 0.05)
            hyperbolic_info_nce(query, y, points, c=0.05, temperature=0.2).backward()

        def learned(raw: Tensor = raw, key: Tensor = key, queue: Tensor = queue) -> None:
            c = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
            query = moving_point(raw.clone().requires_grad_(), c)
            hyperbolic_info_nce_of_tangents(query, key, queue, c=c, temperature=0.2).backward()

        shape = f"N={n} K={k}"
        found[f"statistics of one logged step, {shape}"] = clock(statistics_of_a_step)
        found[f"loss and gradient, c fixed, {shape}"] = clock(fixed)
        found[f"loss and gradient, c learned, {shape}"] = clock(learned)
    for name, network in (("the study's", Narrow()), ("resnet50", torchvision.models.resnet50())):
        gradients = [torch.randn_like(p) for p in network.parameters()]
        found[f"gradient norm, {name}"] = clock(
            lambda gradients=gradients: nn.utils.get_total_norm(gradients)
        )
    return {name: round(value, 3) for name, value in found.items()}


def clock(work: Callable[[], object]) -> float:
    """Median of a few repeats, after a first one."""
    work()
    seconds = []
    while len(seconds) < 3 or (len(seconds) < 30 and sum(seconds) < 3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


# ---------------------------------------------------------------------------------- picture


def plot(report: dict[str, Any], file: Path) -> None:
    colors = {"query": "tab:blue", "key": "tab:orange"}
    crops = {"query": "queries (scenes)", "key": "keys (objects)"}
    figure, axes = plt.subplots(
        5,
        len(report["runs"]),
        figsize=(3.8 * len(report["runs"]), 14),
        sharex=True,
        sharey="row",
        constrained_layout=True,
    )
    for column, (name, run) in enumerate(report["runs"].items()):
        values, steps = run["values"], run["values"]["step"]
        norms, distances, rim, curvature, losses = axes[:, column]
        norms.set_title(name, fontsize=10)
        for role, color in colors.items():
            low, median, high, largest = (
                values[f"hyperbolic/{role}/norm/q{share}"] for share in (25, 50, 75, 100)
            )
            label = crops[role]
            norms.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0)
            norms.plot(steps, median, color=color, label=f"{label}: median, quartiles")
            norms.plot(steps, largest, color=color, linewidth=0.7, linestyle=":", label="largest")
            distances.plot(steps, values[f"hyperbolic/{role}/distance"], color=color, label=label)
            rim.plot(steps, values[f"hyperbolic/{role}/projected"], color=color, label=label)
        curvature.plot(steps, values["curvature"], color="tab:green")
        curvature.set_yscale("log")
        weight = report["settings"]["hcl.weight"]
        hyperbolic = [value / weight for value in values["loss/hyperbolic"]]
        losses.plot(steps, values["loss/euclidean"], color="tab:grey", label="Euclidean")
        losses.plot(steps, hyperbolic, color="tab:red", label="hyperbolic, before λ")
        losses.set_yscale("log")
        losses.set_xscale("log")
        losses.set_xlabel("step")
    labels = (
        "norm, share of the ball's radius",
        "mean distance to the origin",
        "share of points at the rim",
        "curvature c",
        "loss",
    )
    for row, label in enumerate(labels):
        axes[row, 0].set_ylabel(label)
        for axis in axes[row]:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylim(0, 1.02)
    axes[2, 0].set_ylim(-0.02, 1.02)
    for row in (0, 1, 4):
        axes[row, 0].legend(fontsize=8)
    settings = report["settings"]
    figure.suptitle(
        f"MoCo-v2 + HCL on embedded scenes, {settings['optim.batch_size']} images a step, "
        f"rate {report['rate_over_recipe']:g} times the recipe's, nothing clipped"
    )
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
