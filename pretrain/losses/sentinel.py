"""Finds the operation that made the first non-finite number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NonFiniteSentinel(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which the first NaN or infinity raises, naming its operation.

    ``with NonFiniteSentinel(): loss = step(); loss.backward()`` — every operation is checked and
    waits for the device, so this is for replaying a step that failed, not for training.

    An operation is blamed if its inputs are finite and its output is not; one that was handed an
    infinity on purpose (masking with -inf) is not.

    Raises:
        FloatingPointError: with the operation and the shapes and ranges of its inputs.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and look at what it made."""
        kwargs = kwargs or {}
        # In-place operations overwrite their inputs: look at those first.
        leaves = tree_leaves((args, kwargs))
        finite = all(_finite(leaf) for leaf in leaves)
        seen = ", ".join(_describe(leaf) for leaf in leaves if _floating(leaf)) if finite else ""
        result = func(*args, **kwargs)
        uninitialised = "empty" in func.__name__
        if finite and not uninitialised and not all(map(_finite, tree_leaves(result))):
            raise FloatingPointError(f"{func} made a non-finite number from ({seen})")
        return result


def _floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _finite(leaf: object) -> bool:
    if isinstance(leaf, float):
        return math.isfinite(leaf)
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return bool(torch.isfinite(leaf).all())
    return True


def _describe(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    if tensor.numel() == 0:
        return f"{tensor.dtype} {shape}"
    low, high = tensor.min().item(), tensor.max().item()
    return f"{tensor.dtype} {shape} in [{low:.4g}, {high:.4g}]"
