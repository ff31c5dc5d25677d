"""``hcl retrieve eval``: Recall@K, mAP@R and R-precision of a fine-tuned network."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Evaluate a run of ``hcl retrieve train``, on its own data set or another."""
    arguments = _parser().parse_intermixed_args(argv)
    from downstream.retrieval.finetune.score import score, summary
    from downstream.retrieval.finetune.tuned import load_tuned, with_overrides
    from downstream.retrieval.task import device_of

    tuned = load_tuned(arguments.run)
    tuned = with_overrides(tuned, arguments.overrides, source="hcl retrieve eval")
    tuned.network.to(device_of(arguments.device))
    output = arguments.output or Path(tuned.settings.output)
    command = ["hcl", "retrieve", "eval", *argv]
    result = score(
        tuned,
        output,
        command,
        engine=arguments.search,
        delta_subsets=arguments.delta,
        histogram=arguments.histogram,
    )
    print(summary(result))
    print(f"{output / 'result.json'}: written")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hcl retrieve eval",
        description="Recall@K, mAP@R and R-precision of a network of `hcl retrieve train`, exactly "
        "ranked: by cosine, and as it was trained in the ball or by the fused score.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder of `hcl retrieve train`, or a checkpoint"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.root=DIR test.ties=against"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the run's folder")
    parser.add_argument(
        "--delta",
        type=int,
        default=0,
        metavar="N",
        help="also the delta-hyperbolicity of the features, on N random subsets of 2,000",
    )
    parser.add_argument(
        "--histogram", action="store_true", help="also rank by colour histograms, for comparison"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--search",
        choices=["auto", "faiss", "torch"],
        default="auto",
        help="first stage of the exact search; the answer is the same (default: auto)",
    )
    return parser
