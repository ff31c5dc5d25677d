"""``hcl retrieve eval``: Recall@K, mAP@R and R-precision of a fine-tuned network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from downstream.results.result import FILE_NAME, Result, finished
from pretrain.core.arguments import add_fresh, add_output, positive_int
from pretrain.core.command import Command
from pretrain.core.errors import InputError
from pretrain.core.run_files import CHECKPOINTS

if TYPE_CHECKING:
    from downstream.retrieval.finetune.finetuned_model import FinetunedModel


def run(arguments: argparse.Namespace) -> int:
    """Evaluate a run of ``hcl retrieve train``, on its own data set or another."""
    from downstream.retrieval.finetune.finetuned_model import load_finetuned, with_overrides
    from downstream.retrieval.finetune.score import score, summary
    from downstream.retrieval.run_evaluation import device_of

    output = arguments.output or _folder_of(arguments.run)
    tuned = load_finetuned(arguments.run)
    tuned = with_overrides(tuned, arguments.overrides, source="hcl retrieve eval")
    known = None if arguments.fresh else _known(tuned, output)
    # What is asked for beyond an evaluation joins the result that is there.
    colors = known is not None and any("/colours/" in name for name in known.metrics)
    more = arguments.delta or (arguments.histogram and not colors)
    if known is not None and not more:
        print(summary(known))
        print(f"{output / FILE_NAME}: already there")
        return 0
    tuned.network.to(device_of(arguments.device))
    result = score(
        tuned,
        output,
        arguments.command_line,
        engine=arguments.search,
        delta_subsets=arguments.delta,
        histogram=arguments.histogram,
        known=None if known is None else known.metrics,
    )
    print(summary(result))
    print(f"{output / FILE_NAME}: written")
    return 0


def _folder_of(run: Path) -> Path:
    """The run folder, also of one of its checkpoints."""
    if not run.is_file():
        return run
    if run.resolve().parent.name != CHECKPOINTS:
        raise InputError(f"{run}: not in a run's folder; say with --output where the result goes")
    return run.resolve().parents[1]


def _known(tuned: FinetunedModel, output: Path) -> Result | None:
    """The result of the same network and protocol in ``output``; another one is refused."""
    from downstream.retrieval.datasets import open_images
    from downstream.retrieval.finetune.score import protocol_of, row_name
    from pretrain.core.files import sha256

    protocol = protocol_of(tuned.settings, open_images(tuned.settings.data))
    identity = {"weights_sha256": sha256(tuned.checkpoint)}
    return finished(output, "retrieval", row_name(tuned.settings), protocol, identity)


def _subsets(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder of `hcl retrieve train`, or a checkpoint"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.root=DIR test.ties=against"
    )
    add_output(parser, "where result.json goes (default: the run's folder)", None)
    add_fresh(parser, "replace another result in that folder")
    parser.add_argument(
        "--delta",
        type=_subsets,
        default=0,
        metavar="N",
        help="also the delta-hyperbolicity of the features, on N random subsets of 2,000",
    )
    parser.add_argument(
        "--histogram", action="store_true", help="also rank by color histograms, for comparison"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--search",
        choices=["auto", "faiss", "torch"],
        default="auto",
        help="first stage of the exact search; the answer is the same (default: auto)",
    )


COMMAND = Command(
    "retrieve eval",
    "Recall@K, mAP@R and R-precision of a network of `hcl retrieve train`, exactly "
    "ranked: by cosine, and as it was trained in the ball or by the fused score.",
    add_arguments,
    run,
    renamed={"--overwrite": "--fresh"},
)
