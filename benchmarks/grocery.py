"""The study of metric learning on photographs: what its runs found, as JSON and as a table.

    python -m benchmarks.grocery runs/study_grocery --output benchmarks/results/grocery.json

Reads the folder that ``hcl pipeline study_grocery`` makes, as far as it has come.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks.surroundings import surroundings
from downstream.results.result import FILE_NAME, Result, read_result

OWN = {
    "sphere": "head/euclidean",
    "ball": "head/hyperbolic",
    "mixed_logits": "head/fused",
    "mixed_losses": "head/fused",
    "released": "head/fused",
}
"""The ranking that each geometry is trained for."""

SINGLE = ("random", "untuned")
SEEDED = re.compile(r"(?P<geometry>[a-z_]+)-seed(?P<seed>\d+)")
TRIED = re.compile(r"(?P<geometry>[a-z_]+)-(rate|temperature)-.+")
MARGIN = 3.0
"""Points of R@1: a smaller difference counts as none (configs/pipeline/study_grocery.yaml)."""


def main() -> None:
    """Collect, print the table and the choices, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the pipeline")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    runs = {
        str(file.parent.relative_to(arguments.study)): read_result(file.parent)
        for file in sorted(arguments.study.rglob(FILE_NAME))
        if "report" not in file.parts
    }
    found: dict[str, Any] = {
        "tuning": tuning({n.removeprefix("tune/"): r for n, r in runs.items() if "tune/" in n}),
        "single": {name: runs[name].metrics for name in SINGLE if name in runs},
        "seeds": seeds(runs),
        "sweeps": {
            name: runs[name].metrics for name in runs if re.match(r"\w+-(temperature|curv)", name)
        },
    }
    found["verdicts"] = verdicts(runs)
    print(table(found))
    if arguments.output is not None:
        document = {
            "command": "hcl pipeline study_grocery",
            **surroundings(packages=("torch", "numpy", "timm")),
            "results": found,
        }
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


def tuning(runs: dict[str, Result]) -> dict[str, Any]:
    """R@1 in the own ranking of every setting tried, in percent, by geometry."""
    tried: dict[str, dict[str, float]] = {}
    for name, result in runs.items():
        match = TRIED.fullmatch(name)
        assert match is not None, f"{name}: not a run of the pipeline"
        geometry = match["geometry"]
        value = result.metrics[f"recall/{OWN[geometry]}@1"]
        tried.setdefault(geometry, {})[name.removeprefix(f"{geometry}-")] = round(100 * value, 2)
    return tried


def seeds(runs: dict[str, Result]) -> dict[str, Any]:
    """Every metric of each geometry: values by seed, mean, deviation."""
    values: dict[str, dict[str, list[float]]] = {}
    for name, result in runs.items():
        match = SEEDED.fullmatch(name)
        if match is not None:
            for metric, value in result.metrics.items():
                values.setdefault(match["geometry"], {}).setdefault(metric, []).append(value)
    return {
        geometry: {
            metric: {
                "values": [round(value, 6) for value in several],
                "mean": statistics.fmean(several),
                "deviation": statistics.stdev(several) if len(several) > 1 else None,
            }
            for metric, several in metrics.items()
        }
        for geometry, metrics in values.items()
    }


def verdicts(runs: dict[str, Result]) -> dict[str, Any]:
    """Each geometry against the sphere: differences of R@1 by seed, points, and what they say."""
    at_1: dict[str, dict[str, float]] = {}
    for name, result in runs.items():
        match = SEEDED.fullmatch(name)
        if match is not None:
            value = result.metrics[f"recall/{OWN[match['geometry']]}@1"]
            at_1.setdefault(match["geometry"], {})[match["seed"]] = 100 * value
    sphere = at_1.pop("sphere", {})
    made = {}
    for geometry, values in at_1.items():
        shared = sorted(values.keys() & sphere.keys())
        differences = [values[seed] - sphere[seed] for seed in shared]
        if differences:
            mean = statistics.fmean(differences)
            one_sign = len({d > 0 for d in differences}) == 1
            made[geometry] = {
                "differences": [round(d, 2) for d in differences],
                "mean": round(mean, 2),
                "counts": len(differences) >= 3 and one_sign and abs(mean) > MARGIN,
            }
    return made


def table(found: dict[str, Any]) -> str:
    """Rows for docs/retrieval.md."""
    columns = [*(f"R@{k}" for k in (1, 2, 4, 8)), "mAP@R", "coarse R@1", "coarse mAP@R"]
    lines = [f"| loss, ranked by | seeds | {' | '.join(columns)} |", "|---" * 9 + "|"]
    for name, metrics in found["single"].items():
        single = {m: {"mean": v, "deviation": None, "values": [v]} for m, v in metrics.items()}
        lines += _lines(name, single)
    for geometry, metrics in found["seeds"].items():
        lines += _lines(geometry, metrics)
    return "\n".join(lines)


def _lines(name: str, metrics: dict[str, Any]) -> list[str]:
    rankings = [m.removeprefix("map@r/") for m in metrics if m.startswith("map@r/")]
    lines = []
    for ranking in rankings:
        wanted = [
            *(f"recall/{ranking}@{k}" for k in (1, 2, 4, 8)),
            *(f"map@r/{ranking}", f"coarse-recall/{ranking}@1", f"coarse-map@r/{ranking}"),
        ]
        cells = [_cell(metrics[metric]) for metric in wanted]
        count = len(metrics[wanted[0]]["values"])
        lines.append(f"| {name}, {ranking} | {count} | {' | '.join(cells)} |")
    return lines


def _cell(value: dict[str, Any]) -> str:
    text = f"{100 * value['mean']:.1f}"
    return text if value["deviation"] is None else f"{text} ± {100 * value['deviation']:.1f}"


if __name__ == "__main__":
    main()
