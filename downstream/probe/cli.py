"""``hcl probe``: frozen features under a linear classifier and a k-NN vote."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.core.arguments import positive, positive_int
from pretrain.core.command import Command

if TYPE_CHECKING:
    from downstream.results.result import Result


def run(arguments: argparse.Namespace) -> int:
    """Probe one run and write ``result.json``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from downstream.probe.run import Options, probe
    from downstream.probe.samples import source
    from pretrain.core.errors import InputError

    kinds = tuple(dict.fromkeys(arguments.kind or ("linear", "knn")))
    if arguments.labels == "scene":
        if arguments.kind and "knn" in kinds:
            raise InputError("--kind knn: votes for one label; with --labels scene take linear")
        kinds = ("linear",)
    options = Options(
        run=arguments.run,
        train=source(arguments.train, arguments.on_bad_box, "--train"),
        val=source(arguments.val, arguments.on_bad_box, "--val"),
        output=arguments.output,
        labels=arguments.labels,
        kinds=kinds,
        name=arguments.name,
        size=arguments.size,
        k=arguments.k,
        temperature=arguments.temperature,
        limit=arguments.limit,
        batch=arguments.batch,
        device=arguments.device,
        overwrite=arguments.overwrite,
    )
    result, reused = probe(options, arguments.command_line)
    print(_summary(result))
    if arguments.against is not None:
        print(_differences(arguments.output, arguments.against))
    verb = "already there, same weights and options" if reused else "written"
    print(f"{arguments.output / 'result.json'}: {verb}")
    if reused:
        print("measure again with --overwrite")
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder of `hcl pretrain`, or a checkpoint")
    for option, what in (("--train", "learned from"), ("--val", "tested on")):
        add(
            option,
            nargs="+",
            required=True,
            metavar="PATH",
            help=f"{what}: ANNOTATIONS IMAGES in COCO's format, or one folder: a prepared index, "
            "or class folders",
        )
    add("--output", type=Path, required=True, metavar="DIR", help="where result.json goes")
    add(
        "--labels",
        choices=["object", "image", "scene"],
        default="object",
        help="a sample is a labelled box (default), an image of one category, or a whole image "
        "with all its categories (mean average precision)",
    )
    add("--kind", choices=["linear", "knn"], nargs="+", help="default: both")
    add("--name", metavar="ROW", help="row in tables (default: name of the run folder)")
    add("--size", type=positive_int, metavar="PX", help="side of an image (default: of training)")
    add("--k", type=positive_int, default=20, metavar="K", help="neighbours (default: 20)")
    add(
        "--temperature",
        type=positive,
        default=0.07,
        metavar="T",
        help="of the votes exp(cos/T) (default: 0.07)",
    )
    add(
        "--limit",
        type=positive_int,
        default=2**31,
        metavar="N",
        help="take N samples of either side, spread evenly",
    )
    add(
        "--on-bad-box",
        choices=["error", "drop"],
        default="error",
        help="boxes without area or outside their image: refuse the set, or leave them out",
    )
    add("--batch", type=positive_int, default=256, metavar="N", help="default: 256")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add(
        "--against",
        type=Path,
        metavar="DIR",
        help="the --output of another probe with the same --val: print the difference and its "
        "paired bootstrap interval",
    )
    add("--overwrite", action="store_true", help="measure again even if the result is there")


COMMAND = Command(
    "probe",
    "Classify with a frozen backbone: logistic regression fitted to convergence, "
    "its penalty chosen on held-out training images, and a weighted k-NN vote. Samples are "
    "objects, images of one category, or scenes with several.",
    add_arguments,
    run,
)
