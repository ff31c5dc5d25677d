"""The one place that knows about releases of detectron2.

The code beside this module uses only what the official main branch and the index wheel
``sal-detectron2`` share.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from pretrain.core.errors import InputError

# torch.fx: fvcore compiles its losses when imported, and new releases of torch remark on it.
LOGGERS = ("detectron2", "fvcore", "iopath", "py.warnings", "torch.fx")


def require() -> str:
    """Make sure that detectron2 imports, and return its version.

    Raises:
        InputError: it does not; the message says how to install it.
    """
    try:
        import detectron2
        import detectron2.engine
    except ImportError as error:
        raise InputError(
            f"detectron2 does not import ({error}); run `python tools/install_detectron2.py`"
        ) from None
    return str(detectron2.__version__)


def distributed(model: nn.Module) -> nn.Module:
    """The model for several processes, or itself where there is one.

    detectron2's own ``create_ddp_model`` names devices, which torch refuses on the CPU.
    """
    from detectron2.utils import comm

    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=False
    )


@contextlib.contextmanager
def logs_in(path: Path) -> Iterator[None]:
    """Send what detectron2 and its helpers log, warnings included, to a file alone.

    detectron2 sets up a console logger unless its own is already enabled, as here.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
