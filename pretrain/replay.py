"""What is left of a step whose numbers were not finite: its batch, its model, and the culprit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain import distributed
from pretrain.data.plan import Batch
from pretrain.loop import NonFiniteLossError
from pretrain.losses.sentinel import NonFiniteSentinel
from pretrain.methods.base import Method


@dataclass(frozen=True)
class Step:
    """A step as it was done.

    Attributes:
        number: of steps done before it.
        rank: of this process.
        batch: as the loader gave it.
        parts: the views as the method got them, one dictionary a forward.
        losses: the terms, means over the parts.
        autocast: of the run.
        scale: what the run does to the loss before backward.
    """

    number: int
    rank: int
    batch: Batch
    parts: list[dict[str, Tensor]]
    losses: dict[str, Tensor]
    autocast: Callable[[], AbstractContextManager[Any]]
    scale: Callable[[Tensor], Tensor]


def refuse(method: Method, step: Step, folder: Path) -> NonFiniteLossError:
    """Find the culprit, and write ``folder/step_XXXXXXXX_rankR.pt``; returns the error to raise.

    All ranks take part. The method's parameters and buffers must be those of the step, but for
    batch norm's running statistics, which training does not read.
    """
    model = {name: value.detach().clone() for name, value in method.state_dict().items()}
    culprit = find_culprit(method, step)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step.number:08d}_rank{step.rank}.pt"
    values = {name: value.item() for name, value in step.losses.items()}
    torch.save(
        {
            "step": step.number,
            "rows": step.batch.rows,
            "parts": [{name: view.cpu() for name, view in part.items()} for part in step.parts],
            "model": model,
            "losses": values,
            "culprit": culprit,
        },
        path,
    )
    # The first process to end takes the others with it: let all write.
    distributed.barrier()
    bad = ", ".join(f"loss {name}" for name, value in values.items() if not math.isfinite(value))
    terms = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
    return NonFiniteLossError(
        f"step {step.number}: {bad or 'a gradient (or a loss on another rank)'} not finite "
        f"({terms}). First: {culprit}.\n"
        f"Weights and checkpoints are from before; batch and model saved in {path}"
    )


def find_culprit(method: Method, step: Step) -> str:
    """Do the step again, forward and backward, and name what made the first non-finite number.

    It is done to the end whatever is found, since the method's collectives need all ranks.
    """
    views = (_first_non_finite(part, "view") for part in step.parts)
    given = (
        next(filter(None, views), None)
        or _first_non_finite(dict(method.named_parameters()), "parameter")
        or _first_non_finite(_read_buffers(method), "buffer")
    )
    sentinel = NonFiniteSentinel(method, stop=False)
    method.zero_grad()
    method.rewind()
    # Compiled code would be one operation to the sentinel.
    with torch.compiler.set_stance("force_eager"), sentinel:
        for part in step.parts:
            with step.autocast():
                losses, _ = method(part)
            loss = torch.stack(list(losses.values())).sum()
            step.scale(loss).backward()  # type: ignore[no-untyped-call]
    if given is not None:
        return f"{given} was not finite before the step began"
    return sentinel.found or "every number was finite on this rank when the step was done again"


def _read_buffers(method: Method) -> dict[str, Tensor]:
    """Without running statistics: training only writes them, and the failed step just did."""
    written = ("running_mean", "running_var")
    return {name: b for name, b in method.named_buffers() if not name.endswith(written)}


def _first_non_finite(tensors: Mapping[str, Tensor], kind: str) -> str | None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{kind} '{name}'"
    return None
