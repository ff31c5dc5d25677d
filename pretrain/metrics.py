"""What a run says while it runs: one live line, plain lines in a log, JSONL, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.core.files import write_text
from pretrain.core.progress import Interval
from pretrain.core.text import duration

Value = float | list[float]
"""What one name of a logged step holds: a number, or a histogram's shares."""

LOG_SECONDS = 10.0
"""Between two lines in a log; ``metrics.jsonl`` has all logged steps."""


class Recorder:
    """Takes the values of logged steps to all the places they belong.

    Args:
        metrics: the JSONL file; lines after ``start_step`` are dropped, since those steps are
            about to be done again.
        tensorboard: folder of event files, or None.
        start_step: steps already done.
        total_steps: of the run.
    """

    def __init__(
        self, metrics: Path, tensorboard: Path | None, start_step: int, total_steps: int
    ) -> None:
        _truncate(metrics, start_step)
        self._file = metrics.open("a", encoding="utf-8")
        self._writer: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard), purge_step=start_step)
        self._total = total_steps
        self._live = sys.stderr.isatty()
        self._interval, self._shown = Interval(LOG_SECONDS), False
        self._start_step, self._start = start_step, time.monotonic()

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Record the values of ``step`` (steps done so far); shown live where they have a loss."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, list):
                    self._add_histogram(name, value, step)
                else:
                    self._writer.add_scalar(name, value, step)
        if "loss" in values and self._wanted(step):
            self._show(step, {k: v for k, v in values.items() if not isinstance(v, list)})

    def _wanted(self, step: int) -> bool:
        """All logged steps on a terminal; in a file the first, the last and some between."""
        first, self._shown = not self._shown, True
        return self._interval.due() or self._live or first or step == self._total

    def _add_histogram(self, name: str, shares: list[float], step: int) -> None:
        """Shares over equal parts of [0, 1], as TensorBoard draws them."""
        edges = [(place + 1) / len(shares) for place in range(len(shares))]
        self._writer.add_histogram_raw(
            name, 0.0, 1.0, 1, 0.0, 0.0, bucket_limits=edges, bucket_counts=shares, global_step=step
        )

    def image(self, name: str, image: Tensor) -> None:
        """Record an image, uint8 (3, H, W)."""
        if self._writer is not None:
            self._writer.add_image(name, image, 0)

    def close(self) -> None:
        """Flush everything and end the live line."""
        if self._live:
            print(file=sys.stderr)
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _show(self, step: int, values: dict[str, float]) -> None:
        seconds_a_step = (time.monotonic() - self._start) / max(step - self._start_step, 1)
        terms = " ".join(
            f"{name.removeprefix('loss/')} {value:.4f}"
            for name, value in values.items()
            if name.startswith("loss/")
        )
        weak = values.get("fallback", 0.0)
        line = (
            f"step {step}/{self._total}  loss {values['loss']:.4f}{f' ({terms})' * bool(terms)}  "
            f"lr {values['lr']:.4g}  {values['images_per_s']:.1f} images/s  "
            f"data wait {100 * values['data_wait']:.0f} %  "
            f"{f'fallback {100 * weak:.0f} %  ' * (weak > 0)}"
            f"ETA {duration(seconds_a_step * (self._total - step))}"
        )
        end = "" if self._live else "\n"
        # Erase to the end of the line: the one before may have been longer.
        print(f"\r{line}\x1b[K" if self._live else line, end=end, file=sys.stderr, flush=True)


def split_values(flat: Sequence[float], tensors: Mapping[str, Tensor]) -> dict[str, Value]:
    """The values of ``tensors`` by name, given all of them one after the other."""
    values: dict[str, Value] = {}
    start = 0
    for name, tensor in tensors.items():
        part = list(flat[start : start + tensor.numel()])
        values[name] = part if tensor.ndim else part[0]
        start += tensor.numel()
    return values


def view_grid(
    views: dict[str, Tensor], mean: tuple[float, ...], std: tuple[float, ...], rows: int = 8
) -> Tensor:
    """The views as the networks see them, a row per image: uint8 (3, H, W).

    Views smaller than the largest stand in the upper left corner of their place.

    Args:
        views: normalized, each (B, 3, S, S) with a side of its own.
        mean: of the normalization.
        std: of the normalization.
        rows: how many images to show.
    """
    scale = torch.tensor(std).view(3, 1, 1)
    shift = torch.tensor(mean).view(3, 1, 1)
    height = max(view.shape[2] for view in views.values())
    columns = []
    for view in views.values():
        images = view[:rows].detach().float().cpu() * scale + shift
        border = (2, 2, 2, 2 + height - view.shape[2])
        images = torch.nn.functional.pad(images.clamp(0, 1), border, value=1.0)
        columns.append(torch.cat(list(images), dim=1))
    return (torch.cat(columns, dim=2) * 255).round().to(torch.uint8)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All whole lines of a metrics file; a line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # Text after the last newline is a line that a kill cut off.
    return [json.loads(line) for line in lines[:-1] if line]


def _truncate(path: Path, step: int) -> None:
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
