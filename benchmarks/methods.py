"""Every method with and without the HCL branch, from one budget: k-NN accuracy and Recall@1.

    python benchmarks/methods.py                        # two CPU cores
    python benchmarks/methods.py --device cuda --steps 2000 --jobs 1
    python benchmarks/methods.py table                  # the table alone, from the JSON

from the root of the repository, with PYTHONPATH=. where the package is not installed. Writes
benchmarks/results/methods_DEVICE.json and prints the table of docs/methods.md.

Every run is `hcl pretrain` on the embedded scenes: ResNet-18 from scratch, the same batch, steps
and view size, the rate of the method's COCO recipe scaled to the batch. The budget is the number
of steps, not the cost: the seconds stand in the JSON. ORL's stage 1 is the BYOL run of the same
seed, its stage 2 `hcl correspond`. At the end each run's own probe classifies the labeled object
crops of the validation scenes by those of the training scenes: backbone features, k-NN with
k = 20 and the nearest neighbor alone. `random` is a network that was not trained. Runs that are
finished are not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surroundings import surroundings

from pretrain.metrics import read_metrics

RESULTS = Path(__file__).parent / "results"
METHODS = ("moco", "densecl", "byol", "orl")
BATCH, SIZE, PATCH = 32, 48, 24
QUEUE = 256
"""Keys: less than a quarter of the 1,200 images, so that few queries meet keys of their own."""
FIRST = {"blur_p": 1.0}
SECOND = {"blur_p": 0.1, "solarize_p": 0.2}
SCENES = ("--val", "300", "--size", "160", "--seed", "0", "--workers", "2")
WATCHED = ("probe/knn", "probe/recall_1")
HEALTH = ("rank", "spread", "similarity/negative")


@dataclass(frozen=True)
class Row:
    """One run: a method with or without the branch, and a seed."""

    method: str
    branch: bool
    seed: int

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.method}+hcl" if self.branch else self.method

    @property
    def folder(self) -> str:
        """Below the study's folder."""
        return f"{self.name}-{self.seed}"


def main() -> None:
    """Run what is missing, then write JSON and table."""
    arguments = _parser().parse_args()
    file = RESULTS / f"methods_{arguments.device}.json"
    if arguments.what == "run":
        about = surroundings(arguments.device)
        results = study(arguments)
        budget = {
            "steps": arguments.steps,
            "batch": BATCH,
            "view": SIZE,
            "images": arguments.images,
        }
        text = json.dumps({"about": about, "budget": budget, "runs": results}, indent=1)
        file.write_text(text + "\n", encoding="utf-8")
    print(table(json.loads(file.read_text(encoding="utf-8"))["runs"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=1200, help="training scenes")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, a thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, cheapest dependencies first: BYOL, whose network ORL needs, and all but ORL."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    scenes = arguments.folder / "scenes"
    _command(
        arguments,
        "scenes",
        ["data", "scenes", str(scenes), *SCENES, "--images", str(arguments.images)],
    )
    rows = [
        Row(method, branch, seed)
        for seed in arguments.seeds
        for method, branch in [("random", False)]
        + [(method, branch) for method in METHODS for branch in (False, True)]
    ]
    waves = ([r for r in rows if r.method != "orl"], [r for r in rows if r.method == "orl"])
    first, second = (sorted(wave, key=lambda r: r.method != "byol") for wave in waves)
    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found += pool.map(lambda row: run(arguments, scenes, row), first)
        list(pool.map(lambda seed: correspond(arguments, seed), arguments.seeds))
        found += pool.map(lambda row: run(arguments, scenes, row), second)
    return found


def run(arguments: argparse.Namespace, scenes: Path, row: Row) -> dict[str, Any]:
    """Pretrain one row; returns what its probe found."""
    output = arguments.folder / row.folder
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in settings(row).items()]
    words += [
        f"output={output}",
        f"seed={row.seed}",
        f"train.device={arguments.device}",
        f"train.steps={0 if row.method == 'random' else arguments.steps}",
        f"data.annotations={scenes}/annotations/instances_train.json",
        f"data.images={scenes}/train",
        f"probe.data={json.dumps(_set(scenes, 'train'))}",
        f"probe.test={json.dumps(_set(scenes, 'val'))}",
    ]
    if row.method == "orl":
        words.append(f"data.pairs={arguments.folder / f'pairs-{row.seed}' / 'pairs'}")
    _command(arguments, row.folder, ["pretrain", "quickstart", *words])
    lines = read_metrics(output / "metrics.jsonl")
    last = lines[-1]
    logged = [line for line in lines if "loss" in line]
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    rates = [line["images_per_s"] for line in logged]
    return {
        "name": row.name,
        "seed": row.seed,
        **{key: last[key] for key in (*WATCHED, "probe/chance", "probe/majority")},
        **({key: logged[-1][key] for key in HEALTH} if logged else {}),
        "loss": logged[-1]["loss"] if logged else None,
        "images_per_s": statistics.median(rates) if rates else None,
        "warning": record.get("warning"),
    }


def correspond(arguments: argparse.Namespace, seed: int) -> None:
    """ORL's stage 2 from the BYOL run of this seed."""
    pairs = arguments.folder / f"pairs-{seed}"
    words = [str(arguments.folder / Row("byol", False, seed).folder), "-o", str(pairs)]
    device = ["--device", arguments.device]
    _command(arguments, pairs.name, ["correspond", *words, "--batch-size", "128", *device])


def settings(row: Row) -> dict[str, Any]:
    """What this row changes of the quickstart's settings."""
    common: dict[str, Any] = {
        "views.size": SIZE,
        "model.backbone": "resnet18",
        "optim.batch_size": BATCH,
        "optim.schedule": "cosine",
        "optim.schedule_per": "step",
        "optim.warmup_steps": 20,
        "optim.clip_norm": 1.0,
        "train.epochs": None,
        "train.threads": 1,
        "train.log_every": 20,
        "train.tensorboard": False,
        "data.workers": 0,
        "probe.every": 10**9,
        "probe.k": 20,
        "probe.max_items": 4000,
        "hcl.queue": QUEUE,
        "hcl.weight": 0.1 if row.branch else 0.0,
    }
    if row.method in ("moco", "densecl", "random"):
        name = "moco" if row.method == "random" else row.method
        method = {"name": name, "queue": QUEUE, "momentum": 0.99, "norm_group": BATCH // 2}
        method |= {"symmetric": True, "crops": "object_context"}
        return {**common, "method": method, "optim.lr": 0.3 * BATCH / 256}
    names = {"byol": ("view",), "orl": ("global", "intra", "inter")}[row.method]
    colors = {f"{name}_{n}": c for name in names for n, c in ((1, FIRST), (2, SECOND))}
    method = {"name": row.method, "predictor_hidden": 512}
    if row.method == "orl":
        method["patch_size"] = PATCH
    return {
        **common,
        "method": method,
        "model.head": "mlp_bn",
        "model.hidden": 512,
        "augment.views": colors,
        "augment.jitter": [0.4, 0.4, 0.2, 0.1],
        "views.scale": [0.08, 1.0],
        "optim.lr": 0.4 * BATCH / 512,
    }


def _set(scenes: Path, split: str) -> dict[str, str]:
    annotations = scenes / "annotations" / f"instances_{split}.json"
    return {"annotations": str(annotations), "images": str(scenes / split)}


def _command(arguments: argparse.Namespace, name: str, words: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    start = time.monotonic()
    with (arguments.folder / f"{name}.log").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "hcl.py", *words], env=environment, stderr=log, stdout=log, check=False
        )
    if done.returncode:
        raise SystemExit(f"{name}: status {done.returncode}, see {log.name}")
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, per cent."""
    lines = ["| run | k-NN | Recall@1 | RankMe | spread | negatives' cosine |"]
    lines.append("|---|---|---|---|---|---|")
    for name in dict.fromkeys(run["name"] for run in runs):
        own = [run for run in runs if run["name"] == name]
        cells = [_spread([100 * run[key] for run in own], 1) for key in WATCHED]
        cells += [_spread([r[k] for r in own if k in r], 2 if k != "rank" else 1) for k in HEALTH]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    majority, chance = (100 * runs[0][f"probe/{key}"] for key in ("majority", "chance"))
    lines.append(f"| *no features* | {majority:.1f} | {chance:.1f} | | | |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
