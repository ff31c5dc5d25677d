"""What ``hcl detect`` is asked for; its arguments are made from this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.settings import Settings

Paths = tuple[Path, Path]
_SET = Option(("ANNOTATIONS", "IMAGES"))
_HIDDEN = Option(hidden=True)


class Options(Settings):
    """Of one transfer.

    Attributes:
        config: detectron2's YAML file.
        weights: a backbone: export, run folder or checkpoint of `hcl`, or a ResNet's checkpoint of
            torchvision, timm, MoCo, DenseCL or ORL; default: MODEL.WEIGHTS of the config, and
            random initialization where that is empty.
        output: result folder.
        train: COCO or LVIS annotations and image folder; default: the config's DATASETS, under
            the folder in DETECTRON2_DATASETS.
        val: likewise.
        labels: training images that keep their labels: ids or file names, or a COCO file with
            them; default: HCL.LABELS of the config.
        name: row of the table; default: the pretraining run's name.
        form: protocol that the config must keep; free asks for nothing; default: what the
            config's name ends in.
        seeds: train once a seed, each in DIR/seedN, and show mean and standard deviation.
        num_gpus: processes on this machine, one a GPU; over several machines use torchrun or srun.
        fresh: replace the folder's result.
        eval_only: measure this trained detector (model_*.pth, or its result folder); train
            nothing.
        overrides: KEY VALUE KEY VALUE ...
        command: for the record.
    """

    config: Annotated[Path, _HIDDEN]
    weights: Annotated[Path | None, Option("FILE")] = None
    output: Annotated[Path, Option("DIR", short="-o")]
    train: Annotated[Paths | None, _SET] = None
    val: Annotated[Paths | None, _SET] = None
    labels: Annotated[Path | None, Option("LIST")] = None
    name: Annotated[str | None, Option("ROW")] = None
    form: Literal["ssl", "stock", "free"] | None = None
    seeds: Annotated[tuple[int, ...], Option("N")] = ()
    num_gpus: Annotated[int, Field(ge=1), Option("N")] = 1
    fresh: bool = False
    eval_only: Annotated[Path | None, Option("MODEL")] = None
    overrides: Annotated[tuple[str, ...], _HIDDEN] = ()
    command: Annotated[tuple[str, ...], _HIDDEN] = ()
