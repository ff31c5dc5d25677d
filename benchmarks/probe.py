"""Time and objective of the linear probe beside scikit-learn's logistic regression.

    PYTHONPATH=. python benchmarks/probe.py FEATURES.pt... [--penalties 0.01 0.001] [--threads 1]

A file of ``torch.save`` holds ``features``, float32 (N, F), and ``labels``, int64 (N,). Both fit
the same objective (scikit-learn's C is 1 / (N penalty)) to the same standardized features, in
turns; the objective each reached is computed by one function. scikit-learn stops at its default
tolerance and iterations, and where asked with ``--exact`` at a tolerance as strict as ours.

Writes benchmarks/results/probe_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
from surroundings import surroundings
from torch import Tensor
from torch.nn.functional import cross_entropy

from downstream.probe import linear

RESULTS = Path(__file__).parent / "results" / "probe_cpu.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path, nargs="+")
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.01, 0.001])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="scikit-learn to our tolerance too")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    packages = ("torch", "numpy", "scipy", "scikit-learn")
    record: dict[str, object] = {
        "surroundings": surroundings(packages=packages),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    rows = []
    for path in arguments.features:
        saved = torch.load(path, weights_only=True)
        for penalty in arguments.penalties:
            row = {"features": path.stem, **compare(saved, penalty, arguments)}
            rows.append(row)
            print(json.dumps(row), flush=True)
            arguments.output.write_text(json.dumps({**record, "rows": rows}, indent=2) + "\n")


def compare(
    saved: dict[str, Tensor], penalty: float, arguments: argparse.Namespace
) -> dict[str, object]:
    """Median seconds and objective of every way to fit, in turns."""
    features, labels = saved["features"], saved["labels"]
    classes = int(labels.max()) + 1
    x = features.double()
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-12)
    ways = {"hcl": lambda: ours(features, labels, penalty, classes)}
    ways["scikit-learn"] = lambda: theirs(x, labels, penalty, tol=1e-4, max_iter=100)
    if arguments.exact:
        ways["scikit-learn, exact"] = lambda: theirs(x, labels, penalty, tol=1e-7, max_iter=10_000)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    reached: dict[str, dict[str, float]] = {}
    for _ in range(arguments.repeats):
        for name, fit in ways.items():
            begun = time.perf_counter()
            weights, bias = fit()
            seconds[name].append(time.perf_counter() - begun)
            reached[name] = objective(x, labels, weights, bias, penalty)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "samples": len(features),
        "width": features.shape[1],
        "classes": classes,
        "penalty": penalty,
        "fits": {
            name: {
                "seconds": round(medians[name], 3),
                "over_hcl": round(medians[name] / medians["hcl"], 2),
                **reached[name],
            }
            for name in ways
        },
    }


def ours(features: Tensor, labels: Tensor, penalty: float, classes: int) -> tuple[Tensor, Tensor]:
    """From zero, with the standardization and its eigenbasis."""
    found = linear.fit(features, labels, penalty, classes=classes)
    return found.weights[:-1], found.weights[-1]


def theirs(
    x: Tensor, labels: Tensor, penalty: float, tol: float, max_iter: int
) -> tuple[Tensor, Tensor]:
    """scikit-learn's default solver, of features standardized beforehand."""
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # this way alone
        from threadpoolctl import threadpool_limits  # noqa: PLC0415  # comes with it
    except ImportError:
        raise SystemExit("compares with scikit-learn: pip install scikit-learn") from None
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore")  # it tells of stopping early; the objective says so
        model = LogisticRegression(C=1 / (len(x) * penalty), tol=tol, max_iter=max_iter)
        model.fit(x.numpy(), labels.numpy())
    return torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)


def objective(
    x: Tensor, labels: Tensor, weights: Tensor, bias: Tensor, penalty: float
) -> dict[str, float]:
    """Its value, and the greatest entry of its gradient."""
    logits = x @ weights + bias
    value = cross_entropy(logits, labels) + penalty / 2 * weights.square().sum()
    errors = logits.softmax(1)
    errors[torch.arange(len(labels)), labels] -= 1
    slopes = x.T @ errors / len(x) + penalty * weights
    return {"objective": float(value), "gradient": float(slopes.abs().max())}


if __name__ == "__main__":
    main()
