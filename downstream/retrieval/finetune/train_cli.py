"""``hcl retrieve train``: fine-tune, then evaluate."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.core.arguments import add_run
from pretrain.core.command import Command, run_configs
from pretrain.core.exit_status import FINISHED

if TYPE_CHECKING:
    from pretrain.distributed import World


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when finished, 75 when a signal stopped a run that can be continued."""
    from downstream.retrieval.finetune.settings import CONFIGS

    settings = CONFIGS.of_command(arguments)
    if settings is None:
        return FINISHED
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells how it was loaded

    from downstream.retrieval.finetune.finetuned_model import load_finetuned
    from downstream.retrieval.finetune.score import score, summary
    from downstream.retrieval.finetune.trainer import Trainer
    from pretrain.loop import train

    def evaluate(world: World) -> None:
        output = Path(settings.output)
        tuned = load_finetuned(output)
        tuned.network.to(world.device)
        print(summary(score(tuned, output, arguments.command_line)))

    return train(Trainer, settings, arguments, evaluate)


COMMAND = Command(
    "retrieve train",
    "Fine-tune a backbone for retrieval with pairwise cross-entropy on the sphere, "
    "in the ball or both, and evaluate it. Run again to resume; torchrun or srun for many "
    "processes.",
    lambda parser: add_run(parser, "data.root=DIR output=runs/mine"),
    run,
    config=run_configs("retrieval", "downstream.retrieval.finetune.settings"),
    saves_on_stop=True,
)
