"""From settings to a method."""

from __future__ import annotations

from typing import Any

from pretrain.core.errors import InputError
from pretrain.methods.base import Context, KeyedMethod, Method, MethodSettings, method_class
from pretrain.methods.hcl.branch import HCL, HCLSettings


def build_method(method: MethodSettings, hcl: HCLSettings | None, context: Context) -> Method:
    """The method that ``method.name`` names, with the HCL branch where ``hcl`` asks for it.

    Raises:
        InputError: the method cannot be built for this run, or cannot carry the branch.
    """
    kind: Any = method_class(method.name)
    base: Method = kind(method, context)
    if hcl is None or hcl.weight == 0:
        return base
    if not isinstance(base, KeyedMethod):
        raise InputError(f"hcl: method '{method.name}' has no key encoder for the branch to use")
    return HCL(base, hcl, context)
