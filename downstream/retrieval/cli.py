"""``hcl retrieve``: Recall@K of object crops; ``train`` and ``eval`` fine-tune for retrieval."""

from __future__ import annotations

import argparse
import functools

from downstream.results.result import Result, told
from downstream.retrieval.options import Options
from pretrain.core.arguments import add_settings, read_settings
from pretrain.core.command import Command


def run(arguments: argparse.Namespace) -> int:
    """Evaluate one run and write ``result.json`` and the neighbor sheets."""
    from downstream.retrieval.run_evaluation import retrieve

    options = read_settings(Options, arguments, source="hcl retrieve")
    result, reused = retrieve(options, arguments.command_line)
    print(_summary(result))
    print(told(options.output, reused=reused))
    return 0


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
        f"mean distance from the center: objects {metrics['norm/object']:.3f} "
        f"({100 * metrics['norm/object/rim']:.0f} % held at the rim){scene}"
    )
    return "\n".join(lines)


COMMAND = Command(
    "retrieve",
    "Recall@K by category of the object crops of a COCO-format set, each object "
    "searched among all others: by cosine of backbone features and of head embeddings, and "
    "by hyperbolic distance of head embeddings in the ball.",
    functools.partial(add_settings, kind=Options),
    run,
    epilog="Other things: `hcl retrieve train CONFIG key=value ...` fine-tunes a backbone for "
    "retrieval, `hcl retrieve eval RUN` evaluates what came of it; each has a --help.",
    renamed={"--overwrite": "--fresh", "--batch": "--batch-size"},
)
