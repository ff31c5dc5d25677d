"""The study on photographs of scenes: what its runs found, as JSON and as a table.

    PYTHONPATH=. python benchmarks/study_scenes.py runs/study_scenes

Reads the folder that ``hcl pipeline study_scenes`` makes, as far as it has come: ROW-seedN with
``scenes``, ``objects``, ``multilabel`` and what else was measured. The two comparisons that
docs/study.md names are tested as it says, as soon as both sides have all three seeds.

Writes benchmarks/results/study_scenes.json, and two figures beside it: study_scenes.png, every
measure by row and seed, and study_scenes_loss.png, the branch's loss during training.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure
from surroundings import surroundings

from downstream.figures.style import color_of, style
from downstream.probe.intervals import FILE_NAME as SAMPLES
from downstream.probe.intervals import SampleResults
from downstream.results.analysis_record import read_record
from downstream.results.resampling import Array, average, difference, holm
from downstream.results.result import read_result
from pretrain.core.run_files import METRICS
from pretrain.metrics import read_metrics

mpl.use("Agg")

RESULTS = Path(__file__).parent / "results" / "study_scenes.json"
RUN = re.compile(r"(?P<row>[a-z_0-9]+)-seed(?P<seed>\d+)")
SEEDS = 3
DRAWS = 4000

ROWS = (
    *("color_histogram", "random", "moco", "moco_objects", "moco_hcl", "moco_hcl_euclidean"),
    *("moco_hcl_clipped", "moco_hcl_cosine", "moco_hcl_reversed", "densecl_objects"),
    *("densecl_hcl", "byol", "byol_hcl", "moco_hcl_learned_c", "moco_hcl_annotated"),
    "efficientnet_lite0",
)
"""In the order of the table."""


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        name: its heading.
        folder: of the run, where the result lies.
        metric: the result's name of it.
        unit: what makes percent of it.
    """

    name: str
    folder: str
    metric: str
    unit: float = 100.0


MEASURES = (
    Measure("scenes linear", "scenes", "linear@1"),
    Measure("scenes k-NN", "scenes", "knn@1"),
    Measure("objects linear", "objects", "linear@1"),
    Measure("objects R@1", "retrieval", "recall/backbone/euclidean@1"),
    Measure("objects of a scene mAP", "multilabel", "linear/map"),
    Measure("box AP", "detection", "bbox/AP", 1.0),
    Measure("box AP50", "detection", "bbox/AP50", 1.0),
    Measure("mask AP", "detection", "segm/AP", 1.0),
    Measure("box AP, 10 % labels", "detection_10pct", "bbox/AP", 1.0),
)

CORRELATION = "norm and objects"
"""Heading of the rank correlation with the confounds held fixed; in no unit, not in percent."""

NORMS_AND_OBJECTS = "scenes, rank correlation with the number of objects in the image"

BRANCHES = ("moco_hcl", "moco_hcl_euclidean", "moco_hcl_clipped", "moco_hcl_cosine")
QUEUE = 4096
"""Keys of the branch's queue: chance is log(1 + queue)."""

COMPARISONS = (("moco_hcl", "moco_objects"), ("moco_hcl", "moco_hcl_euclidean"))
OUTCOMES = (("scenes", "linear@1"), ("objects", "linear@1"), ("multilabel", "linear/map"))


def main() -> None:
    """Collect, test what can be tested, print and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the pipeline")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs: dict[str, dict[int, Path]] = {}
    for folder in sorted(arguments.study.iterdir()):
        match = RUN.fullmatch(folder.name)
        if match is not None and match["row"] in ROWS:
            runs.setdefault(match["row"], {})[int(match["seed"])] = folder
    rows = {row: measured(runs[row]) for row in ROWS if row in runs}
    complete = {
        row: [
            run for run in seeds.values() if all((run / f / SAMPLES).exists() for f, _ in OUTCOMES)
        ]
        for row, seeds in runs.items()
    }
    tests = {
        f"{first} less {second}": compare(complete[first], complete[second])
        for first, second in COMPARISONS
        if all(len(complete.get(row, ())) >= SEEDS for row in (first, second))
    }
    arguments.output.write_text(
        json.dumps(
            {
                "command": "hcl pipeline study_scenes",
                **surroundings(packages=("torch", "numpy", "timm")),
                "rows": rows,
                "comparisons": tests,
            },
            indent=1,
        )
        + "\n"
    )
    draw_measures(rows, arguments.output.with_suffix(".png"))
    draw_losses(runs, arguments.output.with_name(f"{arguments.output.stem}_loss.png"))
    print(table(rows))
    for name, outcomes in tests.items():
        print(f"\n{name}")
        for outcome, values in outcomes.items():
            print(f"  {outcome}: {values}")


def measured(seeds: dict[int, Path]) -> dict[str, Any]:
    """Of one row: every measure by seed, in percent; the norms; what training cost."""
    values: dict[str, dict[int, float]] = {}
    costs = {}
    norms = {}
    for seed, folder in seeds.items():
        for measure in MEASURES:
            if (folder / measure.folder / "result.json").exists():
                found = read_result(folder / measure.folder).metrics
                if measure.metric in found:
                    value = round(measure.unit * found[measure.metric], 3)
                    values.setdefault(measure.name, {})[seed] = value
        if (folder / "norms" / "analysis.json").exists():
            norms[seed] = read_record(folder / "norms").values
            (measured_norms,) = norms[seed].values()
            values.setdefault(CORRELATION, {})[seed] = round(
                measured_norms[NORMS_AND_OBJECTS]["partial"], 3
            )
        if (folder / "run.json").exists():
            run = json.loads((folder / "run.json").read_text())
            costs[seed] = {"versions": run["versions"], "step": run["step"]}
            if run["step"]:
                speed = statistics.median(speeds(folder))
                minutes = run["step"] * batch_size(folder) / speed / 60
                costs[seed] |= {"images_per_s": round(speed, 1), "minutes": round(minutes, 1)}
    return {"measures": values, "norms": norms, "runs": costs}


def speeds(folder: Path) -> list[float]:
    """Images a second, of every line of a run's log."""
    return [
        line["images_per_s"] for line in read_metrics(folder / METRICS) if line.get("images_per_s")
    ]


def batch_size(folder: Path) -> int:
    """Images a step."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return int(config["optim"]["batch_size"])


def compare(first: Sequence[Path], second: Sequence[Path]) -> dict[str, Any]:
    """One row less another by outcome, in percent, as docs/study.md says what counts.

    The interval is a paired bootstrap over test images of the difference of the seeds' means; p is
    corrected for the three outcomes (Holm).
    """
    differences = {}
    signs = {}
    for folder, metric in OUTCOMES:
        one, other = (
            average([sample(run / folder, metric) for run in side]) for side in (first, second)
        )
        differences[folder] = difference(100 * one[metric], 100 * other[metric])
        values = [
            [100 * read_result(run / folder).metrics[metric] for run in side]
            for side in (first, second)
        ]
        signs[folder] = [a - b for a, b in zip(*values, strict=True)]
    corrected = holm([d.p for d in differences.values()])
    outcomes = {}
    for (folder, made), p in zip(differences.items(), corrected, strict=True):
        one_sign = len(set(np.sign(signs[folder]))) == 1
        counts = one_sign and p < 0.05
        outcomes[folder] = {
            "by seed": [round(d, 2) for d in signs[folder]],
            "mean": round(made.value, 2),
            "interval": [round(made.low, 2), round(made.high, 2)],
            "p": round(p, 4),
            "verdict": ("wins" if made.value > 0 else "loses") if counts else "no difference",
        }
    return outcomes


def sample(folder: Path, metric: str) -> dict[str, Array]:
    """The metric on all test images, then under each draw of them."""
    return {metric: SampleResults.read(folder / SAMPLES).sampled(DRAWS)[metric]}


def measured_names(rows: dict[str, Any]) -> list[str]:
    """Of the measures, those that a row has."""
    return [m.name for m in MEASURES if any(m.name in r["measures"] for r in rows.values())]


def table(rows: dict[str, Any]) -> str:
    """For docs/study.md: mean and deviation over seeds."""
    names = [*measured_names(rows), CORRELATION]
    lines = [f"| row | seeds | {' | '.join(names)} |", "|---|" + "--:|" * (len(names) + 1)]
    for row, found in rows.items():
        count = max((len(values) for values in found["measures"].values()), default=0)
        cells = [cell(found["measures"].get(name, {})) for name in names]
        lines.append(f"| {row} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_measures(rows: dict[str, Any], path: Path) -> None:
    """One panel a measure: a dot for each seed, a line at their mean."""
    names = measured_names(rows)
    with style("#1c2430", "#ffffff"):
        figure = Figure(figsize=(2.1 * len(names) + 1.6, 0.34 * len(rows) + 1.1))
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            for place, found in enumerate(rows.values()):
                values = list(found["measures"].get(name, {}).values())
                if values:
                    color = color_of(place)
                    panel.plot(values, [place] * len(values), "o", color=color, ms=4, alpha=0.75)
                    mean = statistics.fmean(values)
                    panel.plot([mean] * 2, [place - 0.33, place + 0.33], color=color, lw=1.4)
            panel.set_title(name, fontsize=9)
            panel.set_xlabel("%")
            panel.grid(axis="x", lw=0.3)
        panels[0].set_yticks(range(len(rows)), list(rows))
        panels[0].invert_yaxis()
        figure.tight_layout()
        figure.savefig(path, dpi=130)


def draw_losses(runs: dict[str, dict[int, Path]], path: Path) -> None:
    """The branch's loss of every run that has the branch, before its weight, and chance."""
    branches = {row: seeds for row, seeds in runs.items() if row in BRANCHES}
    if not branches:
        return
    with style("#1c2430", "#ffffff"):
        figure = Figure(figsize=(6.4, 3.4))
        panel = figure.subplots()
        for row, seeds in branches.items():
            for number, folder in enumerate(seeds.values()):
                weight = yaml.safe_load((folder / "config.yaml").read_text())["hcl"]["weight"]
                lines = [
                    line for line in read_metrics(folder / METRICS) if "loss/hyperbolic" in line
                ]
                panel.plot(
                    [line["step"] for line in lines],
                    [line["loss/hyperbolic"] / weight for line in lines],
                    color=color_of(ROWS.index(row)),
                    label=row if number == 0 else None,
                    lw=1.0,
                )
        panel.axhline(math.log(1 + QUEUE), color="#1c2430", ls="--", lw=0.8, label="chance")
        panel.set(xlabel="step", ylabel="branch's loss", yscale="log")
        panel.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
        panel.minorticks_off()
        panel.legend()
        figure.tight_layout()
        figure.savefig(path, dpi=130)


def cell(values: dict[int, float]) -> str:
    """Mean ± deviation over seeds; the value alone of one seed."""
    several = list(values.values())
    if not several:
        return ""
    mean = f"{statistics.fmean(several):.2f}"
    return f"{mean} ± {statistics.stdev(several):.2f}" if len(several) > 1 else mean


if __name__ == "__main__":
    main()
