"""``hcl probe``: frozen features under a linear classifier and a k-NN vote."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from pathlib import Path
from typing import Any

from downstream.probe.options import Options
from downstream.results.result import Result, told
from pretrain.core.arguments import add_settings, read_settings
from pretrain.core.command import Command


def run(arguments: argparse.Namespace) -> int:
    """Probe one run and write ``result.json``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from downstream.probe.run import probe

    options = read_settings(Options, arguments, source="hcl probe")
    result, reused = probe(options, arguments.command_line)
    print(_summary(result))
    if options.against is not None:
        print(_differences(options.output, options.against))
    print(told(options.output, reused=reused))
    return 0


TITLES = {
    "linear@1": "linear, top-1",
    "linear@5": "linear, top-5",
    "linear/per-class": "linear, mean over categories",
    "linear/map": "linear, mean average precision",
    "knn@1": "k-NN, top-1",
    "knn/per-class": "k-NN, mean over categories",
    "majority": "the most frequent category",
    "chance/map": "equal scores for all",
}


def _summary(result: Result) -> str:
    protocol, facts = result.protocol, result.provenance
    lines = [
        f"{result.run}: {protocol['labels']}s, {facts['categories']} categories; "
        f"{facts['readable']['train']} to learn from, {facts['readable']['val']} to test"
    ]
    lines += [
        f"{title:<34}{100 * result.metrics[key]:6.1f} %{_interval(facts, key)}"
        for key, title in TITLES.items()
        if key in result.metrics
    ]
    if "penalty" in facts:
        lines.append(f"penalty {facts['penalty']:g}, chosen on a fifth of the training images")
    return "\n".join(lines)


def _interval(facts: dict[str, Any], key: str) -> str:
    if key not in facts.get("intervals", {}):
        return ""
    low, high = facts["intervals"][key]
    return f"  [{100 * low:.1f}, {100 * high:.1f}]"


def _differences(output: Path, against: Path) -> str:
    from downstream.probe.intervals import compare

    lines = [f"less {against}, over the same draws of test images (95 % interval):"]
    lines += [
        f"{TITLES[name]:<34}{found.value:+6.1f}    [{found.low:+.1f}, {found.high:+.1f}]"
        f"  p {found.p:.3f}"
        for name, found in compare(output, against).items()
    ]
    return "\n".join(lines)


COMMAND = Command(
    "probe",
    "Classify with a frozen backbone: logistic regression fitted to convergence, "
    "its penalty chosen on held-out training images, and a weighted k-NN vote. Samples are "
    "objects, images of one category, or scenes with several.",
    functools.partial(add_settings, kind=Options),
    run,
    renamed={"--overwrite": "--fresh", "--batch": "--batch-size"},
)
