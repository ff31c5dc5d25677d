"""Fixed-seed runs of two checkouts, compared bit for bit: losses and final weights.

Run it before a change that must not alter results is merged:

    python tools/compare_losses.py ../main .

Each checkout makes a small data set and trains every method with and without the HCL branch for a
few steps, fine-tunes for retrieval and trains a detector, by its own commands, in single precision
with one thread. The table says what was compared; the status is 1 at the first difference, 2 if a
command fails. Both use the environment of this script. It takes about one minute of a quiet core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Runs one command after another, each in a fork of a process that has already imported the
# libraries: importing them anew for every command would take longer than the runs themselves.
SERVER = """
import json, os, runpy, sys
import numpy, PIL.Image, pydantic, timm, torch, torchvision
root = sys.argv[1]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdin = open(os.devnull)
        sys.argv = [root + "/hcl.py", *json.loads(line)]
        status = 1
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

PRETRAIN = """
data: {annotations: scenes/annotations/instances_train.json, images: scenes/train, workers: 0}
views: {size: 32, scale: [0.5, 1.0], min_box_area: 100}
model:
  backbone: timm/resnet10t
  options: {channels: [16, 32, 64, 128], stem_width: 16}
  head: mlp_bn
  hidden: 64
  dim: 32
optim: {batch_size: 16, base_batch: 16, lr: 0.05, schedule_per: step, warmup_steps: 1}
train:
  steps: 4
  precision: fp32
  device: cpu
  threads: 1
  log_every: 1
  checkpoint_every: 100
  tensorboard: false
"""
FINETUNE = """
data: {name: folder, root: crops, workers: 0}
model:
  backbone: xcit_nano_12_p8_224
  options: {img_size: 32, embed_dim: 32, depth: 2, num_heads: 2}
  dim: 16
  size: 32
loss: {geometry: mixed, combine: logits}
sampler: {classes: 3, samples: 4}
optim: {lr: 1e-3, schedule: cosine, warmup_steps: 1}
train:
  steps: 4
  precision: fp32
  device: cpu
  threads: 1
  log_every: 1
  tensorboard: false
"""
QUEUES = ("method.queue=64", "method.norm_group=8")
METHODS = {
    "moco": ("method.name=moco", "method.crops=object", *QUEUES),
    "densecl": (
        *("method.name=densecl", "method.crops=object_context", *QUEUES),
        *("model.head=mlp", "views.size=64"),
    ),
    "byol": ("method.name=byol", "method.predictor_hidden=64"),
    "orl": (
        *("method.name=orl", "method.predictor_hidden=64", "method.patch_size=16"),
        "data.pairs=pairs/pairs",
    ),
}
BRANCH = ("hcl.queue=64",)
TRAIN = ("scenes/annotations/instances_train.json", "scenes/train")
VAL = ("scenes/annotations/instances_val.json", "scenes/val")


def words(text: str) -> tuple[str, ...]:
    """The words of a command line."""
    return tuple(text.split())


def pretrain(name: str, *overrides: str) -> tuple[str, ...]:
    """A pretraining run that writes into the folder ``name``."""
    return ("pretrain", "pretrain.yaml", f"output={name}", *overrides)


# name of a case and of the file or folder it makes: the command, which may use earlier cases
CASES: dict[str, tuple[str, ...]] = {
    "scenes": words(
        "data scenes scenes --source procedural:sea,sky --images 48 --val 8 --size 96 --seed 1"
        " --workers 1"
    ),
    "moco": pretrain("moco", *METHODS["moco"], "hcl.weight=0"),
    "moco-hcl": pretrain("moco-hcl", *METHODS["moco"], *BRANCH),
    "moco-hcl-learned-c": pretrain(
        "moco-hcl-learned-c", *METHODS["moco"], *BRANCH, "hcl.learn_curvature=true"
    ),
    "densecl": pretrain("densecl", *METHODS["densecl"], "hcl.weight=0"),
    "densecl-hcl": pretrain("densecl-hcl", *METHODS["densecl"], *BRANCH),
    "byol": pretrain("byol", *METHODS["byol"], "hcl.weight=0"),
    "byol-hcl": pretrain("byol-hcl", *METHODS["byol"], *BRANCH),
    "pairs": words("correspond byol -o pairs --workers 1 --device cpu"),
    "orl": pretrain("orl", *METHODS["orl"], "hcl.weight=0"),
    "orl-hcl": pretrain("orl-hcl", *METHODS["orl"], *BRANCH),
    "crops": ("data", "crops", *TRAIN, "crops", "--size", "32"),
    "finetune": words("retrieve train finetune.yaml output=finetune"),
    "detection": (
        *("detect", "quickstart_r10_fpn", "--weights", "moco-hcl", "--output", "detection"),
        *("--train", *TRAIN, "--val", *VAL, "MODEL.DEVICE", "cpu", "SEED", "1"),
        *("SOLVER.MAX_ITER", "4", "SOLVER.IMS_PER_BATCH", "2", "MODEL.BACKBONE.FREEZE_AT", "0"),
        *("HCL.TIMM.OPTIONS", "{'channels': [16, 32, 64, 128], 'stem_width': 16}"),
    ),
}
NEEDS = {
    "pairs": ("byol",),
    "orl": ("pairs",),
    "orl-hcl": ("pairs",),
    "finetune": ("crops",),
    "detection": ("moco-hcl",),
}
# Times and memory are not compared.
MEASURED = re.compile(r"time|memory|_s$|/s$|_mb$|_gb$|eta_|wait")


class Checkout:
    """Runs the commands of one checkout in a folder of its own."""

    def __init__(self, code: Path, folder: Path) -> None:
        code = code.resolve()
        self.folder = folder
        folder.mkdir()
        (folder / "pretrain.yaml").write_text(PRETRAIN, encoding="utf-8")
        (folder / "finetune.yaml").write_text(FINETUNE, encoding="utf-8")
        environment = {
            **os.environ,
            **{"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(code)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: Sequence[str]) -> None:
        """Run ``hcl ARGV``; its output is shown, and the script ends, if it fails."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(argv), file=self._server.stdin, flush=True)
        status = self._server.stdout.readline().strip()
        if status != "0":
            log = self.folder / "log.txt"
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            print(f"{text}\nhcl {shlex.join(argv)}\nended with status {status}", file=sys.stderr)
            raise SystemExit(2)

    def close(self) -> None:
        """End the process that runs the commands."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


def losses(folder: Path) -> dict[str, str]:
    """Every recorded number but times and memory: ``{file:line name: its exact text}``."""
    found = {}
    for path in sorted(folder.rglob("metrics.json*")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for name, value in json.loads(line).items():
                if not MEASURED.search(name):
                    found[f"{path.name}:{number} {name}"] = json.dumps(value)
    return found


def tensors(folder: Path) -> dict[str, str]:
    """Every tensor of the newest checkpoint of ``folder``: ``{name: its digest}``."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".pt", ".pth"))
    if not paths:
        return {}
    state = torch.load(paths[-1], map_location="cpu", weights_only=False)
    return dict(_digests(state, ""))


def _digests(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The tensors and arrays in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _digests(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _digests(inner, f"{name}.{number}")
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        head = f"{array.dtype} {array.shape}".encode()
        yield name.lstrip("."), hashlib.sha256(head + array.tobytes()).hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Images, arrays and annotations: ``{path: its digest}``."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".jpg", ".png", ".npy") or path.parent.name == "annotations"
    }


def difference(a: dict[str, str], b: dict[str, str]) -> tuple[str | None, int]:
    """The first name whose values differ, or None; and how many values have other names in b."""
    for name, value in a.items():
        if name in b and b[name] != value:
            return name, 0
    only_a = [name for name in a if name not in b]
    only_b = [name for name in b if name not in a]
    surplus = Counter(a[name] for name in only_a)
    surplus.subtract(b[name] for name in only_b)
    for name in (*only_a, *only_b):
        if surplus[a.get(name) or b[name]]:
            return f"{name} (only in one of them)", 0
    return None, len(only_a)


def compare(name: str, folders: Sequence[Path]) -> str | None:
    """Print a row of the table for one case; return the first difference, or None."""
    a, b = (folder / name for folder in folders)
    cells, renamed = [], 0
    for kind in (losses, tensors, files):
        found = kind(a), kind(b)
        if not any(found):
            cells.append("-")
            continue
        where, others = difference(*found)
        if where is not None:
            print(f"{name:<20} {kind.__name__}: DIFFERENT at {where}", flush=True)
            return where
        cells.append(str(len(found[0])))
        renamed += others
    note = f"{renamed} of them renamed" if renamed else ""
    print(f"{name:<20} {cells[0]:>8} {cells[1]:>8} {cells[2]:>8}  identical  {note}", flush=True)
    return None


def chosen(only: Sequence[str]) -> list[str]:
    """The cases to run, in order: all, or those named and what they need."""
    wanted = {"scenes", *(only or CASES)}
    for name in reversed(CASES):
        if name in wanted:
            wanted.update(NEEDS.get(name, ()))
    return [name for name in CASES if name in wanted]


def main() -> int:
    """Compare two checkouts; 0 if they compute the same."""
    parser = argparse.ArgumentParser(description="Compare fixed-seed runs of two checkouts.")
    parser.add_argument("checkouts", metavar="CHECKOUT", nargs=2, type=Path)
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=list(CASES), help=", ".join(CASES)
    )
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave the runs here")
    arguments = parser.parse_args()
    work = arguments.keep or Path(tempfile.mkdtemp(prefix="compare_losses-"))
    work.mkdir(parents=True, exist_ok=True)
    folders = [work / "a", work / "b"]
    sides = [Checkout(*pair) for pair in zip(arguments.checkouts, folders, strict=True)]
    print(f"{'run':<20} {'numbers':>8} {'tensors':>8} {'files':>8}")
    start = time.monotonic()
    try:
        for name in chosen(arguments.only or []):
            for side in sides:
                side.run(CASES[name])
            if compare(name, folders) is not None:
                return 1
    finally:
        for side in sides:
            side.close()
        if arguments.keep is None:
            shutil.rmtree(work)
    print(f"no difference ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
