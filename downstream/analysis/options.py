"""The options of each analysis; nothing heavy is loaded for them."""

from __future__ import annotations

import argparse
from pathlib import Path

from pretrain.core.arguments import add_fresh, add_output, natural, positive, positive_int

KINDS = {
    "hard-negatives": "Weights of the negatives against their rank for sphere, ball and mixture; "
    "overlap and gallery of the hardest negatives of two models, or of one in both geometries.",
    "delta": "Delta-hyperbolicity of features and embeddings, in both definitions, and the "
    "curvature that would fit.",
    "norms": "Norms of embeddings and distances from the centre of the ball: by run, by class, "
    "and for pretraining runs against the number of objects.",
    "sweep": "A metric of finished runs over one of their settings, such as a temperature or the "
    "curvature, mean and deviation over seeds.",
}

MOST_RUNS = {"hard-negatives": 2, "delta": 1}


def add_arguments(kind: str, parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one analysis."""
    {
        "hard-negatives": _hard_negatives,
        "delta": _delta,
        "norms": _norms,
        "sweep": _sweep,
    }[kind](parser)
    add_output(parser, "where figures, report.html and analysis.json go")
    add_fresh(parser, "replace another analysis in that folder")


def _hard_negatives(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add(
        "items",
        nargs="+",
        metavar="RUN",
        help="run folder or checkpoint of `hcl retrieve train`; a second one to compare it with; "
        "and key=value to test both on other data, such as data.root=DIR",
    )
    add("--anchors", type=positive_int, default=200, metavar="N", help="drawn (default: 200)")
    add(
        "--ranks",
        type=positive_int,
        default=100,
        metavar="N",
        help="hardest negatives whose overlap is taken (default: 100)",
    )
    add(
        "--gallery",
        type=positive_int,
        default=4,
        metavar="N",
        help="anchors in the gallery (default: 4)",
    )
    for name, of in (("spherical", "sphere"), ("hyperbolic", "ball")):
        add(
            f"--temperature-{name}",
            type=positive,
            nargs="+",
            default=[],
            metavar="T",
            help=f"show the {of} at these temperatures (default: the run's own)",
        )
    _seed(made)
    _device(made)


def _delta(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("items", nargs="+", metavar="RUN", help=_EMBEDDED)
    add("--samples", type=_several, default=2000, metavar="N", help="points of a subset (2000)")
    add(
        "--repeats", type=positive_int, default=10, metavar="N", help="random subsets (default: 10)"
    )
    add(
        "--split",
        choices=["test", "train"],
        default="test",
        help="which images of a fine-tuned run's set (default: test)",
    )
    _objects(made)
    _seed(made)
    _device(made)


def _norms(made: argparse.ArgumentParser) -> None:
    made.add_argument("items", nargs="+", metavar="RUN", help=_EMBEDDED)
    _objects(made)
    _device(made)


def _sweep(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a finished run of `hcl retrieve train`, or of a result of `hcl retrieve`",
    )
    add(
        "--over",
        required=True,
        metavar="KEY",
        help="the setting, as in loss.curvature; loss.temperature: that of the run's own geometry",
    )
    add(
        "--metric",
        nargs="+",
        default=["recall/head/own@1"],
        metavar="NAME",
        help="of result.json; 'own' stands for the ranking of the run's own geometry "
        "(default: recall/head/own@1)",
    )
    add("--by", metavar="KEY", help="a line for each value of it, as in loss.geometry")
    add(
        "--allow",
        nargs="+",
        default=[],
        metavar="KEY",
        help="other settings in which the runs may differ",
    )


_EMBEDDED = (
    "run folder or checkpoint of `hcl retrieve train`; of `hcl pretrain`, with --annotations and "
    "--images; or an .npz with embeddings (N, D), labels (N,) and, where there is a ball, ball "
    "(N, D) and c. key=value tests fine-tuned runs on other data, as in data.root=DIR"
)


def _objects(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--annotations", type=Path, metavar="JSON", help="COCO-format objects, for pretraining")
    add("--images", type=Path, metavar="DIR", help="folder of their images")


def _seed(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of what is drawn (default: 0)"
    )


def _device(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")


def _several(text: str) -> int:
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"must be a whole number from 4, got '{text}'")
    return int(text)
