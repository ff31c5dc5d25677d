"""A fine-tuned network back out of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from downstream.retrieval.finetune.network import Architecture, Network, rebuild
from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain import checkpoint
from pretrain.core.config import override
from pretrain.core.errors import InputError
from pretrain.core.settings import parse


@dataclass(frozen=True)
class FinetunedModel:
    """A network in evaluation mode, and where it came from."""

    network: Network
    settings: FinetuneSettings
    checkpoint: Path
    step: int


def is_finetuned(source: Path) -> bool:
    """Whether this is a run folder or checkpoint of ``hcl retrieve train``.

    Raises:
        InputError: a checkpoint is damaged.
    """
    found = checkpoint.read_run(source)
    return found is not None and "architecture" in found[1]


def load_finetuned(source: Path) -> FinetunedModel:
    """Read a run folder of ``hcl retrieve train`` (its newest checkpoint) or one checkpoint.

    Raises:
        InputError: nothing there, damaged, or of another command.
    """
    found = checkpoint.read_run(source)
    if found is None:
        raise InputError(f"{source}: no checkpoint; run `hcl retrieve train` first")
    path, state = found
    if "architecture" not in state or "network" not in state:
        raise InputError(
            f"{path}: not a checkpoint of `hcl retrieve train`; for one of `hcl pretrain` use "
            "`hcl retrieve RUN --annotations ...`"
        )
    settings = parse(FinetuneSettings, state["settings"], source=str(path), at="settings")
    architecture = parse(Architecture, state["architecture"], source=str(path), at="architecture")
    network = rebuild(architecture)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError:
        raise InputError(
            f"{path}: its tensors are not those of {architecture.backbone} as installed here "
            "(another version of its library?)"
        ) from None
    return FinetunedModel(network.eval(), settings, path, int(state["step"]))


def with_overrides(
    tuned: FinetunedModel, overrides: Sequence[str], *, source: str
) -> FinetunedModel:
    """The same network, to be tested on other data or in another way.

    Args:
        tuned: the network and its own settings.
        overrides: ``key=value``, each of ``data.*`` or ``test.*``.
        source: who asks, for messages.

    Raises:
        InputError: another key, or settings that cannot be.
    """
    values = tuned.settings.model_dump(mode="json")
    for text in overrides:
        if text.partition(".")[0] not in ("data", "test"):
            raise InputError(f"'{text}': only data.* and test.* are for an evaluation to choose")
    override(values, overrides)
    return replace(tuned, settings=parse(FinetuneSettings, values, source=source))
