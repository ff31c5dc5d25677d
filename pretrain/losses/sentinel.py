"""Finds the operation that made the first non-finite number."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NonFiniteSentinel(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which the first NaN or infinity is found, and its operation named.

    ``with NonFiniteSentinel(): loss = step(); loss.backward()`` — every operation is checked and
    waits for the device, so this is for replaying a step that failed, not for training.

    An operation is blamed if its inputs are finite and its output is not; one that was handed an
    infinity on purpose (masking with -inf) is not.

    Args:
        module: names the module that was at work, too.
        stop: raise at once. Without it the replay goes on, as it must where other processes
            wait for this one in a collective, and ``found`` says what was seen first.

    Attributes:
        found: the operation, its module and the shapes and ranges of its inputs; None so far.

    Raises:
        FloatingPointError: with ``found``, if ``stop``.
    """

    def __init__(self, module: nn.Module | None = None, *, stop: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None
        self._module, self._stop = module, stop
        self._inside: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for name, part in self._module.named_modules() if self._module is not None else ():
            self._hooks.append(part.register_forward_pre_hook(self._enter(name)))
            self._hooks.append(part.register_forward_hook(self._leave(name), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the modules as they were."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _enter(self, name: str) -> Any:
        def hook(*_: object) -> None:
            self._inside.append(name)

        return hook

    def _leave(self, name: str) -> Any:
        def hook(_part: nn.Module, _inputs: object, output: object) -> None:
            self._inside.pop()
            if isinstance(output, Tensor) and output.grad_fn is not None:
                # So that the backward of the module's last operation finds its name.
                _notes(output.grad_fn).setdefault("module", name)

        return hook

    def _place(self) -> str:
        # Autograd runs one node at a time in this thread, and none in forward.
        node = torch._C._current_autograd_node()
        if node is not None:
            module = _notes(node).get("module")
            return f" in {node.name()}" + (f" of {module}" if module else "")
        inside = [name for name in self._inside if name]
        return f" in {inside[-1]}" if inside else ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and look at what it made."""
        kwargs = kwargs or {}
        if self.found is not None:
            return func(*args, **kwargs)
        # In-place operations overwrite their inputs: look at those first.
        leaves = tree_leaves((args, kwargs))
        finite = all(_finite(leaf) for leaf in leaves)
        seen = ", ".join(_describe(leaf) for leaf in leaves if _floating(leaf)) if finite else ""
        result = func(*args, **kwargs)
        uninitialized = "empty" in func.__name__
        if finite and not uninitialized and not all(map(_finite, tree_leaves(result))):
            self.found = f"{func}{self._place()} made a non-finite number from ({seen})"
            if self._stop:
                raise FloatingPointError(self.found)
        return result


def _notes(node: Any) -> dict[str, str]:
    """A dictionary that autograd keeps with its node."""
    notes: dict[str, str] = node.metadata
    return notes


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
