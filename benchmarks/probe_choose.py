"""Time to choose a penalty and fit, as ``hcl probe`` does, in this checkout and in an earlier one.

    PYTHONPATH=. python benchmarks/probe_choose.py FEATURES.pt EARLIER_CHECKOUT [--limit 600]

A file of ``torch.save`` holds ``features``, float32 (N, F), and ``labels``, int64 (N,); every fifth
sample judges the penalties. CPU seconds of one thread in a process of each; one that has not ended
after ``--limit`` CPU seconds is stopped, and its ratio is a lower bound.

Writes benchmarks/results/probe_choose_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from surroundings import surroundings

RESULTS = Path(__file__).parent / "results" / "probe_choose_cpu.json"
CHILD = """
import json, logging, sys, time, torch
from downstream.probe import linear
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
torch.set_num_threads(1)
saved = torch.load(sys.argv[1], weights_only=True)
features, labels = saved["features"], saved["labels"]
held_out = torch.arange(len(labels)) % 5 == 0
score = lambda logits, targets: float((logits.argmax(1) == targets).double().mean())
begun = time.process_time()
chosen, tried = linear.choose(features, labels, held_out, score, classes=int(labels.max()) + 1)
print(json.dumps({"cpu_seconds": round(time.process_time() - begun, 1), "ended": True,
    "penalty": chosen.penalty, "gradient": chosen.gradient,
    "scores": {str(k): round(v, 4) for k, v in tried.items()}}))
"""


def main() -> None:
    """Run both, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--limit", type=int, default=600, help="CPU seconds")
    arguments = parser.parse_args()
    here = Path(__file__).parent.parent
    record = surroundings(packages=("torch", "numpy"))
    found = {}
    for name, checkout in (("now", here), ("before", arguments.before)):
        commit = subprocess.run(
            ("git", "-C", checkout, "rev-parse", "HEAD"), capture_output=True, text=True, check=True
        ).stdout.strip()
        found[name] = {"commit": commit, **choose(checkout, arguments.features, arguments.limit)}
        print(name, json.dumps(found[name]), flush=True)
    ratio = found["before"]["cpu_seconds"] / found["now"]["cpu_seconds"]
    record |= {"features": arguments.features.stem, **found, "ratio": round(ratio, 1)}
    record["ratio_is"] = "exact" if found["before"]["ended"] else "a lower bound"
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def choose(checkout: Path, features: Path, limit: int) -> dict[str, object]:
    """CPU seconds and the choice, or the limit where it did not end."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        (sys.executable, "-c", CHILD, features.resolve()),
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
    )
    if child.returncode < 0:
        return {"cpu_seconds": limit, "ended": False}
    child.check_returncode()
    found: dict[str, object] = json.loads(child.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
