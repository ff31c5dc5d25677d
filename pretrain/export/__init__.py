"""Exporting a backbone, checked by loading the written file and comparing features."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from pretrain.core.arguments import add_output
from pretrain.core.command import Command
from pretrain.core.errors import InputError


@dataclass(frozen=True)
class ExportReport:
    """What was written and what the check found.

    Attributes:
        path: of the file.
        target: the format.
        sha256: of the file.
        matched: tensors that the reading library matched.
        expected: tensors that a backbone of this kind has.
        absent: tensors of the library's network that the file leaves out on purpose.
        difference: largest difference of features, relative to their scale.
    """

    path: Path
    target: str
    sha256: str
    matched: int
    expected: int
    absent: tuple[str, ...]
    difference: float


def export(source: Path, target: str, output: Path) -> ExportReport:
    """Write the backbone of a run for another library, if that library gives the same features.

    Args:
        source: run folder or checkpoint.
        target: ``torchvision``, ``detectron2``, ``safetensors`` or ``timm``.
        output: file to write; appears only when the check has passed.

    Raises:
        InputError: the source cannot be read, or the check fails; ``output`` is untouched.
    """
    from pretrain.core.files import scratch_beside, sha256, sync
    from pretrain.export.detectron2_format import provenance_of
    from pretrain.export.formats import FORMATS
    from pretrain.export.verify import backbone_features, compare_features
    from pretrain.pretrained import load_pretrained

    if target not in FORMATS:
        raise InputError(f"--to {target}: no such format; one of {', '.join(FORMATS)}")
    pretrained = load_pretrained(source)
    writer = FORMATS[target](target, pretrained)
    if output.suffix != writer.suffix:
        raise InputError(f"{output}: a file for {target} must end in {writer.suffix}")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a file")
    origin = provenance_of(pretrained)
    images, expected = backbone_features(pretrained)
    with scratch_beside(output) as scratch:
        partial = scratch / output.name
        writer.write(origin, partial)
        matched, network = writer.read(partial)
        found = writer.features(network, images, partial)
        difference = compare_features({name: expected[name] for name in found}, found)
        digest = sha256(partial)
        sync(partial)
        partial.replace(output)
        sync(output.parent)
    count = len(pretrained.backbone.state_dict())
    return ExportReport(output, target, digest, matched, count, writer.absent, difference)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument(
        "--to",
        required=True,
        choices=("torchvision", "detectron2", "safetensors", "timm"),
        help="the format; detectron2's is what `hcl detect --weights` reads. timm backbones go to "
        "timm and safetensors, torchvision's ResNets to all",
    )
    add_output(parser, "the file: .pth or .safetensors", metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """``hcl export``."""
    report = export(arguments.run, arguments.to, arguments.output)
    print(f"{report.path}  sha256 {report.sha256}")
    print(f"tensors matched: {report.matched}/{report.expected}")
    if report.absent:
        print(f"left out on purpose: {', '.join(report.absent)} (the classifier)")
    print(f"largest difference of features: {report.difference:.2g} of their scale")
    return 0


COMMAND = Command(
    "export",
    "Write a run's backbone for another library. The file is kept only if that "
    "library, loading it, computes the same features.",
    add_arguments,
    run,
)
