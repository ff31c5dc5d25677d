"""One process or several: started here, by torchrun or by srun."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from pretrain.core.errors import InputError
from pretrain.core.exit_status import WRONG_INPUT
from pretrain.distributed import World, process_group

T = TypeVar("T")


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the process group that torchrun, srun or ``spawn`` describes; once a process.

    Args:
        device: of the config: ``auto``, ``cpu`` or ``cuda``.
    """
    from detectron2.utils import comm

    with process_group("cpu" if device == "cpu" else "auto") as world:
        if world.size > 1:
            comm.create_local_process_group(world.local_size)
        yield world


def agreed(function: Callable[[], T]) -> T:
    """Call on the main process alone; all get its value, or its error.

    Raises:
        InputError: as ``function`` does.
    """
    from detectron2.utils import comm

    outcome: tuple[Any, str] = (None, "")
    if comm.is_main_process():
        try:
            outcome = (function(), "")
        except InputError as error:
            outcome = (None, str(error))
    value, reason = comm.all_gather(outcome)[0]
    if reason:
        raise InputError(reason)
    result: T = value
    return result


def spawn(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call ``function(*arguments)`` in ``count`` processes of one group on this machine.

    Where one fails the others are ended.

    Raises:
        InputError: a process raised it; or there are not so many GPUs.
        RuntimeError: a process ended otherwise; it has said why on the console.
    """
    import torch

    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise InputError(f"--num-gpus {count}: this machine has {torch.cuda.device_count()}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "error.txt"
        world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        places = [{**world, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
        processes = [
            context.Process(target=_work, args=(place, report, function, arguments))
            for place in places
        ]
        for process in processes:
            process.start()
        try:
            _watch(processes)
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()
        if report.is_file():
            raise InputError(report.read_text(encoding="utf-8"))
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise RuntimeError(f"processes of one group ended with {codes}")


def _watch(processes: list[Any]) -> None:
    """Until all have ended, or one has failed."""
    running = list(processes)
    while running:
        wait([process.sentinel for process in running])
        if any(process.exitcode for process in running):
            return
        running = [process for process in running if process.exitcode is None]


def _work(
    place: dict[str, int], report: Path, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update({key: str(value) for key, value in place.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    try:
        function(*arguments)
    except InputError as error:
        # The first to fail is the reason; the others only miss it.
        with contextlib.suppress(FileExistsError), report.open("x", encoding="utf-8") as file:
            file.write(str(error))
        raise SystemExit(WRONG_INPUT) from None
