"""``hcl retrieve``: Recall@K of object crops."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.errors import InputError

if TYPE_CHECKING:
    import torch

    from downstream.results import Result
    from downstream.retrieval.evaluate import Evaluation
    from downstream.retrieval.objects import Objects
    from pretrain.data.records import ReadReport
    from pretrain.pretrained import Pretrained

DEFAULT_CURVATURE = 0.05


def main(argv: list[str]) -> int:
    """Evaluate one run and write ``result.json`` and the neighbour sheets."""
    arguments = _parser().parse_args(argv)
    result, reused = retrieve(arguments, ["hcl", "retrieve", *argv])
    print(_summary(result))
    verb = "already there, same weights and options" if reused else "written"
    print(f"{arguments.output / 'result.json'}: {verb}")
    if reused:
        print("measure again with --overwrite")
    return 0


def retrieve(arguments: argparse.Namespace, command: list[str]) -> tuple[Result, bool]:
    """Do what ``arguments`` ask; returns the result and whether it was there before.

    Raises:
        InputError: weights, annotations, images or options that cannot be used.
    """
    from downstream.results import Result, write_result
    from downstream.retrieval.embed import embed
    from downstream.retrieval.evaluate import evaluate
    from downstream.retrieval.objects import choose_objects
    from downstream.retrieval.sheets import NEIGHBOURS
    from pretrain.data.readers.coco import read
    from pretrain.pretrained import load_pretrained

    start = time.monotonic()
    device = _device(arguments.device)
    pretrained = load_pretrained(arguments.run)
    report = read(arguments.annotations, arguments.images, on_bad_box=arguments.on_bad_box)
    objects = choose_objects(
        report, min_side=arguments.min_side, max_per_category=arguments.max_per_category
    )
    ks = sorted(set(arguments.ks))
    c = _curvature(pretrained, arguments.curvature)
    name = arguments.name or _row_name(pretrained)
    protocol = _protocol(arguments, pretrained, report, ks)
    weights = _sha256(pretrained.checkpoint)
    clip_radius = pretrained.description.clip_radius
    identity = {"weights_sha256": weights, "curvature": c, "clip_radius": clip_radius}
    if not arguments.overwrite:
        known = _finished(arguments.output, name, protocol, identity)
        if known is not None:
            return known, True

    embeddings = embed(
        pretrained,
        objects,
        size=protocol["size"],
        context=arguments.context,
        batch=arguments.batch,
        device=device,
    )
    embedded = time.monotonic()
    found = evaluate(
        embeddings,
        objects,
        ks,
        c=c,
        clip_radius=clip_radius,
        source=str(pretrained.checkpoint),
        engine=arguments.search,
        least=NEIGHBOURS,
    )
    searched = time.monotonic()
    provenance = {
        "command": shlex.join(command),
        "checkpoint": str(pretrained.checkpoint),
        **identity,
        "method": pretrained.description.method,
        "step": pretrained.step,
        "objects": len(objects),
        "scenes": len(embeddings.scenes),
        "categories": len(found.per_category),
        "singleton_categories": found.singletons,
        "left_out": objects.dropped,
        **_environment(device),
        "seconds": {
            "embedding": round(embedded - start, 2),
            "search": round(searched - embedded, 2),
        },
    }
    artifacts = {
        "neighbours": _write_sheets(arguments.output, objects, found, arguments.context),
        "per_category": found.per_category,
    }
    result = Result(
        task="retrieval",
        run=name,
        metrics=found.metrics,
        protocol=protocol,
        provenance=provenance,
        artifacts=artifacts,
    )
    write_result(result, arguments.output)
    return result, False


def _protocol(
    arguments: argparse.Namespace, pretrained: Pretrained, report: ReadReport, ks: list[int]
) -> dict[str, Any]:
    """Everything that must agree for two recalls to be comparable."""
    return {
        "annotations_sha256": report.source_sha256,
        "size": arguments.size or pretrained.description.size,
        "context": arguments.context,
        "min_side": arguments.min_side,
        "max_per_category": arguments.max_per_category,
        "on_bad_box": arguments.on_bad_box,
        "ks": ks,
    }


def _finished(
    folder: Path, name: str, protocol: dict[str, Any], identity: dict[str, Any]
) -> Result | None:
    """The result in ``folder`` if it is the one asked for.

    Raises:
        InputError: the folder holds another task's result.
    """
    from downstream.results import FILE_NAME, read_result

    if not (folder / FILE_NAME).is_file():
        return None
    result = read_result(folder)
    if result.task != "retrieval":
        raise InputError(
            f"{folder / FILE_NAME}: holds a {result.task} result; choose another --output"
        )
    same = result.run == name and result.protocol == protocol
    same = same and all(result.provenance.get(key) == value for key, value in identity.items())
    return result if same else None


def _write_sheets(folder: Path, objects: Objects, found: Evaluation, context: float) -> list[str]:
    """Write the contact sheets; returns their names, none where no category has two objects."""
    from downstream.retrieval.sheets import choose_queries, write_sheet

    queries = choose_queries(objects.labels)
    if not len(queries):
        return []
    sheets = {
        "neighbours_cosine.jpg": "head/euclidean",
        "neighbours_hyperbolic.jpg": "head/hyperbolic",
    }
    for file, space in sheets.items():
        write_sheet(folder / file, objects, queries, found.neighbours[space], context)
    return list(sheets)


def _curvature(pretrained: Pretrained, asked: float | None) -> float:
    """The run's own curvature; a run without a ball takes the one asked for."""
    own = pretrained.description.curvature
    if own is None:
        return DEFAULT_CURVATURE if asked is None else asked
    if asked is not None and asked != own:
        raise InputError(
            f"{pretrained.checkpoint}: trained with curvature {own}, --curvature {asked} "
            "contradicts it; leave --curvature out"
        )
    return own


def _row_name(pretrained: Pretrained) -> str:
    """The run's name where the checkpoint stands in a run folder, else the file's."""
    path = pretrained.checkpoint.resolve()
    return path.parents[1].name if path.parent.name == "checkpoints" else path.stem


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use --device auto or cpu") from None
    return device


def _environment(device: torch.device) -> dict[str, Any]:
    import os
    import platform

    import torch
    import torchvision

    from pretrain import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "versions": {
            "hcl": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "machine": f"{name}, {os.cpu_count()} cores, {platform.machine()}",
    }


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(result: Result) -> str:
    """What the user sees."""
    from downstream.retrieval.evaluate import SPACES

    facts, metrics, ks = result.provenance, result.metrics, result.protocol["ks"]
    lines = [
        f"{result.run}: {facts['objects']} objects, {facts['categories']} categories"
        f" ({facts['singleton_categories']} with a single object: always a miss)"
    ]
    left_out = ", ".join(
        f"{count} {reason}" for reason, count in facts["left_out"].items() if count
    )
    if left_out:
        lines.append(f"left out: {left_out}")
    lines.append(f"{'recall in %':<28}" + "".join(f"{f'R@{k}':>8}" for k in ks))
    for name in SPACES:
        label = f"{name} (c={facts['curvature']:g})" if name == "head/hyperbolic" else name
        values = "".join(f"{100 * metrics[f'recall/{name}@{k}']:8.1f}" for k in ks)
        lines.append(f"{label:<28}{values}")
    lines.append(f"{'chance':<28}{100 * metrics['recall/chance@1']:8.1f} (R@1)")
    scene = f", scenes {metrics['norm/scene']:.3f}" if "norm/scene" in metrics else ""
    lines.append(
        f"mean distance from the ball's centre: objects {metrics['norm/object']:.3f}{scene}"
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcl retrieve",
        description="Recall@K by category of the object crops of a COCO-format set, each object "
        "searched among all others: by cosine of backbone features and of head embeddings, and "
        "by hyperbolic distance of head embeddings in the ball.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder of `hcl pretrain`, or a checkpoint")
    add("--annotations", type=Path, required=True, metavar="JSON", help="COCO-format instances")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of their images")
    add("--output", type=Path, required=True, metavar="DIR", help="where result.json goes")
    add("--name", metavar="ROW", help="row in tables (default: name of the run folder)")
    add("--ks", type=_positive, nargs="+", default=[1, 5, 10], metavar="K", help="default: 1 5 10")
    add(
        "--context",
        type=_not_negative,
        default=0.1,
        help="share of its extent by which a box grows on every side (default: 0.1)",
    )
    add("--size", type=_positive, metavar="PX", help="side of a crop (default: that of training)")
    add(
        "--min-side",
        type=_not_negative,
        default=16.0,
        metavar="PX",
        help="leave out boxes whose shorter side is less (default: 16)",
    )
    add(
        "--max-per-category",
        type=_positive,
        metavar="N",
        help="take N objects of a larger category, spread evenly over the file",
    )
    add(
        "--on-bad-box",
        choices=["error", "drop"],
        default="error",
        help="boxes without area or outside their image: refuse the set, or leave them out",
    )
    add(
        "--curvature",
        type=float,
        metavar="C",
        help=f"c of the ball for runs trained without one (default: {DEFAULT_CURVATURE})",
    )
    add(
        "--batch", type=_positive, default=128, metavar="N", help="crops per forward (default: 128)"
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")
    add(
        "--search",
        choices=["auto", "faiss", "torch"],
        default="auto",
        help="first stage of the exact search; the answer is the same (default: auto)",
    )
    add("--overwrite", action="store_true", help="measure again even if the result is there")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got '{text}'")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got '{text}'")
    return value
