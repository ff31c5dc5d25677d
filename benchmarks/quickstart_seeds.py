"""The quickstart's table over seeds: every value, mean and deviation, as JSON and as a table.

    PYTHONPATH=. python benchmarks/quickstart_seeds.py runs/quickstart_seeds

Reads the folder that ``hcl pipeline quickstart_seeds`` makes, as far as it has come: ROW-seedN with
``retrieval``, ``probe`` and ``detection``. Writes benchmarks/results/quickstart_seeds.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from surroundings import surroundings

from downstream.results.result import read_result

RESULTS = Path(__file__).parent / "results" / "quickstart_seeds.json"
ROWS = ("random", "moco", "moco-hcl")
RUN = re.compile(rf"(?P<row>{'|'.join(ROWS)})-seed(?P<seed>\d+)")
COLUMNS = (  # heading, folder, metric, what makes percent of it
    ("R@1 backbone cos", "retrieval", "recall/backbone/euclidean@1", 100),
    ("R@1 head cos", "retrieval", "recall/head/euclidean@1", 100),
    ("R@1 head hyp", "retrieval", "recall/head/hyperbolic@1", 100),
    ("linear", "probe", "linear@1", 100),
    ("k-NN", "probe", "knn@1", 100),
    ("box AP", "detection", "bbox/AP", 1),
    ("box AP50", "detection", "bbox/AP50", 1),
    ("mask AP", "detection", "segm/AP", 1),
    ("mask AP50", "detection", "segm/AP50", 1),
)


def main() -> None:
    """Collect, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the pipeline")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs: dict[str, dict[int, Any]] = {row: {} for row in ROWS}
    for folder in sorted(arguments.study.iterdir()):
        match = RUN.fullmatch(folder.name)
        if match is not None:
            runs[match["row"]][int(match["seed"])] = measured(folder)
    document = {
        "command": "hcl pipeline quickstart_seeds",
        **surroundings(packages=("torch", "numpy", "timm")),
        "rows": runs,
        "smallest difference from random": {
            row: differences(runs[row], runs["random"]) for row in ROWS[1:]
        },
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    names = [name for name, *_ in COLUMNS]
    print(f"| run | seeds | {' | '.join(names)} |\n|---|{'--:|' * (len(names) + 1)}")
    for row, seeds in runs.items():
        print(f"| {row} | {len(seeds)} | {' | '.join(cell(seeds, name) for name in names)} |")
    print(json.dumps(document["smallest difference from random"], indent=1))


def measured(folder: Path) -> dict[str, Any]:
    """Of one run: every column in percent, and the code that made it."""
    values: dict[str, Any] = {}
    for name, part, metric, unit in COLUMNS:
        if (folder / part / "result.json").exists():
            result = read_result(folder / part)
            values[name] = round(unit * result.metrics[metric], 2)
            values["commit"] = result.provenance.get("versions", {}).get("commit")
    return values


def differences(row: dict[int, Any], random: dict[int, Any]) -> dict[str, float]:
    """By column, the smallest over seeds of a row less the random network of the same seed."""
    shared = row.keys() & random.keys()
    return {
        name: round(min(row[seed][name] - random[seed][name] for seed in shared), 2)
        for name, *_ in COLUMNS
        if shared and all(name in side[seed] for side in (row, random) for seed in shared)
    }


def cell(seeds: dict[int, Any], name: str) -> str:
    """Mean ± deviation over seeds."""
    values = [values[name] for values in seeds.values() if name in values]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
