"""Torchvision's names of a ResNet's tensors, and detectron2's."""

from __future__ import annotations

import re

from pretrain.core.errors import InputError

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Every tensor of a torchvision ResNet without classifier matches exactly one row.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"conv1\.weight"), "stem.conv1.weight"),
    (re.compile(rf"bn1\.{_NORM}"), r"stem.conv1.norm.\1"),
    (re.compile(r"layer([1-4])\.(\d+)\.conv([1-3])\.weight"), r"res{stage}.\2.conv\3.weight"),
    (re.compile(rf"layer([1-4])\.(\d+)\.bn([1-3])\.{_NORM}"), r"res{stage}.\2.conv\3.norm.\4"),
    (re.compile(r"layer([1-4])\.(\d+)\.downsample\.0\.weight"), r"res{stage}.\2.shortcut.weight"),
    (
        re.compile(rf"layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}"),
        r"res{stage}.\2.shortcut.norm.\3",
    ),
)


def detectron2_name(name: str) -> str:
    """Detectron2's name of torchvision's ``name``, without the ``backbone.bottom_up`` prefix.

    ``layer{t}`` becomes ``res{t+1}``, ``bn{k}`` becomes ``conv{k}.norm`` and ``downsample``
    becomes ``shortcut``.

    Raises:
        InputError: no such tensor in a ResNet backbone, such as a classifier's or a head's.
    """
    found = [(rule.fullmatch(name), template) for rule, template in _RULES]
    matches = [(match, template) for match, template in found if match]
    if not matches:
        raise InputError(f"tensor '{name}' is not part of a ResNet backbone; it cannot be exported")
    assert len(matches) == 1, name
    match, template = matches[0]
    if "{stage}" in template:
        template = template.replace("{stage}", str(int(match[1]) + 1))
    return match.expand(template)
