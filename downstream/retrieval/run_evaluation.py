"""The evaluation of one run, from its checkpoint to ``result.json``."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import torch

from downstream.results.result import Result, finished, write_result
from downstream.retrieval.embed import embed
from downstream.retrieval.evaluate import Evaluation, evaluate
from downstream.retrieval.objects import Objects, choose_objects
from downstream.retrieval.options import Options
from downstream.retrieval.sheets import NEIGHBORS, choose_queries, write_sheet
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.run_files import CHECKPOINTS
from pretrain.datasets.readers.coco import read
from pretrain.environment import machine, versions
from pretrain.pretrained import PretrainedEncoder, load_pretrained

DEFAULT_CURVATURE = 0.05


def retrieve(options: Options, command: list[str]) -> tuple[Result, bool]:
    """Do what is asked for; returns the result and whether it was there before.

    Raises:
        InputError: weights, annotations, images or options that cannot be used.
    """
    start = time.monotonic()
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"--output {options.output}: is a file; name a folder")
    device = device_of(options.device)
    pretrained = load_pretrained(options.run)
    report = read(options.annotations, options.images, on_bad_box=options.on_bad_box)
    objects = choose_objects(
        report, min_side=options.min_side, max_per_category=options.max_per_category
    )
    ks = sorted(set(options.ks))
    c = _curvature(pretrained, options.curvature)
    name = options.name or row_name(pretrained)
    # Everything that must agree for two recalls to be comparable.
    protocol: dict[str, Any] = {
        "annotations_sha256": report.source_sha256,
        "size": options.size or pretrained.description.size,
        "context": options.context,
        "min_side": options.min_side,
        "max_per_category": options.max_per_category,
        "on_bad_box": options.on_bad_box,
        "ks": ks,
    }
    weights = sha256(pretrained.checkpoint)
    clip_radius = pretrained.description.clip_radius
    identity = {"weights_sha256": weights, "curvature": c, "clip_radius": clip_radius}
    if not options.fresh:
        known = finished(options.output, "retrieval", name, protocol, identity)
        if known is not None:
            return known, True

    embeddings = embed(
        pretrained,
        objects,
        size=protocol["size"],
        context=options.context,
        batch=options.batch_size,
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
        engine=options.search,
        least=NEIGHBORS,
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
        "versions": versions(),
        "machine": machine(device),
        "seconds": {
            "embedding": round(embedded - start, 2),
            "search": round(searched - embedded, 2),
        },
    }
    result = Result(
        task="retrieval",
        run=name,
        metrics=found.metrics,
        protocol=protocol,
        provenance=provenance,
        artifacts={
            "neighbours": _write_sheets(options.output, objects, found, options.context),
            "per_category": found.per_category,
        },
    )
    write_result(result, options.output)
    return result, False


def _write_sheets(folder: Path, objects: Objects, found: Evaluation, context: float) -> list[str]:
    """Write the contact sheets; returns their names, none where no category has two objects."""
    queries = choose_queries(objects.labels)
    if not len(queries):
        return []
    sheets = {
        "neighbours_cosine.jpg": "head/euclidean",
        "neighbours_hyperbolic.jpg": "head/hyperbolic",
    }
    for file, space in sheets.items():
        write_sheet(folder / file, objects, queries, found.neighbors[space], context)
    return list(sheets)


def _curvature(pretrained: PretrainedEncoder, asked: float | None) -> float:
    """The run's own curvature; a run without a ball takes the one asked for."""
    own = pretrained.description.curvature
    if asked is not None and not 0 < asked < float("inf"):
        raise InputError(f"--curvature {asked}: c must be positive; the default is 0.05")
    if own is None:
        return DEFAULT_CURVATURE if asked is None else asked
    if asked is not None and asked != own:
        raise InputError(
            f"{pretrained.checkpoint}: trained with curvature {own}, --curvature {asked} "
            "contradicts it; leave --curvature out"
        )
    return own


def row_name(pretrained: PretrainedEncoder) -> str:
    """The run's own name, else that of the folder it stands in, else the file's."""
    named = pretrained.description.config.get("name")
    if isinstance(named, str) and named:
        return named
    path = pretrained.checkpoint.resolve()
    return path.parents[1].name if path.parent.name == CHECKPOINTS else path.stem


def device_of(name: str) -> torch.device:
    """The device of ``--device``; ``auto`` takes CUDA where there is one.

    Raises:
        InputError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use --device auto or cpu") from None
    return device
