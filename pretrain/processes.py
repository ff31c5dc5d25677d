"""Work that several processes share: where one fails, all stop, and none waits for ever."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.core.locks import BUSY, alone_in
from pretrain.distributed import World

PATIENCE = 180.0
"""Seconds that a requeued job waits for a folder: NFS frees the locks of a lost node late."""


@contextlib.contextmanager
def held(folder: Path, world: World, who: str = BUSY) -> Iterator[None]:
    """Let the main process hold the folder while all work in it.

    Raises:
        InputError: another process holds it; in all processes.
    """
    patience = PATIENCE if int(os.environ.get("SLURM_RESTART_COUNT") or 0) else 0.0
    with contextlib.ExitStack() as stack:
        on_main(world, lambda: stack.enter_context(alone_in(folder, who, patience)))
        yield


def on_main(world: World, work: Callable[[], Any]) -> None:
    """Let the main process do something that the others wait for."""
    together(world, work if world.is_main else lambda: None)


def together(world: World, work: Callable[[], Any]) -> None:
    """Do something in every process; where it fails in one, it fails in all.

    Raises:
        InputError: here, or in another process, which says more.
    """
    fault: Exception | None = None
    try:
        work()
    except Exception as error:
        fault = error
    failed = distributed.any_rank(fault is not None, world.device)
    if fault is not None:
        raise fault
    if failed:
        raise InputError(f"process {world.rank} stops, as another one failed; see its message")
