"""``hcl retrieve train``: fine-tune, then evaluate."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.core.command import Command, ConfigKind
from pretrain.core.exit_status import STOPPED


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when finished, 75 when a signal stopped a run that can be continued."""
    from downstream.retrieval.finetune.config import load_settings
    from pretrain.core.config import dump_yaml

    settings = load_settings(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_yaml(settings), end="")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells how it was loaded

    from downstream.retrieval.finetune.finetuned_model import load_finetuned
    from downstream.retrieval.finetune.score import score, summary
    from downstream.retrieval.finetune.step import DivergedError
    from downstream.retrieval.finetune.trainer import Trainer
    from pretrain import distributed
    from pretrain.processes import held

    command = arguments.command_line
    output = Path(settings.output)
    with contextlib.ExitStack() as until_evaluated:
        with distributed.process_group(settings.train.device) as world:
            until_evaluated.enter_context(held(output, world, "another run is at work here"))
            try:
                finished = Trainer(settings, world, command, fresh=arguments.fresh).fit()
            except DivergedError as error:
                print(f"hcl retrieve train: {error}", file=sys.stderr)
                return 1
        if not finished:
            print(f"stopped by a signal; continue with the same command ({settings.output})")
            return STOPPED
        if world.is_main:
            tuned = load_finetuned(output)
            tuned.network.to(world.device)
            print(summary(score(tuned, output, command)))
            print(f"finished: {settings.output}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", help="a YAML file, or a preset's name such as hyp_vits_cub")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.root=DIR output=runs/mine"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start over: replace the files of an earlier run of this folder",
    )
    parser.add_argument("--print-config", action="store_true", help="show all settings and stop")


def _output_of(config: str, overrides: Sequence[str]) -> str:
    from downstream.retrieval.finetune.config import load_settings

    return load_settings(config, overrides).output


def _read(path: Path) -> dict[str, Any]:
    from downstream.retrieval.finetune.config import read_values

    return read_values(path)


COMMAND = Command(
    "retrieve train",
    "Fine-tune a backbone for retrieval with pairwise cross-entropy on the sphere, "
    "in the ball or both, and evaluate it. Run again to resume; torchrun or srun for many "
    "processes.",
    add_arguments,
    run,
    config=ConfigKind("retrieval", _output_of, _read, output="output"),
    saves_on_stop=True,
)
