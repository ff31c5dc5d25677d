"""Commands looked at without being run: what is wrong with their words is said now, not in days."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pretrain.core.errors import InputError
from pretrain.core.presets import find_config

OUTER = ("presets", "explain", "pipeline", "submit", "status", "cancel", "logs")
"""Commands about other commands: no step or job of their own."""


class _ParsedError(Exception):
    """A command has come as far as its options; not an error of anybody's."""

    def __init__(self, found: argparse.Namespace) -> None:
        self.found = found


def check_command(words: Sequence[str]) -> str | None:
    """Look at a command's options and, where it has some, settings; nothing is run.

    Returns:
        The folder of the run that it makes, if it makes one.

    Raises:
        InputError: no such command, wrong options, or wrong settings.
    """
    from hcl import COMMANDS

    if not words or words[0] not in COMMANDS or words[0] in OUTER:
        known = ", ".join(name for name in COMMANDS if name not in OUTER)
        raise InputError(
            f"no command 'hcl {' '.join(words[:1])}' for a job or step; one of {known}"
        )
    found = parsed(words)
    if found is None:
        return None
    if words[0] == "pretrain":
        from pretrain.config import load_settings

        return load_settings(found.config, found.overrides).output
    if tuple(words[:2]) == ("retrieve", "train"):
        from downstream.retrieval.finetune.config import load_settings as load_finetuning

        return load_finetuning(found.config, found.overrides).output
    if words[0] == "detect":
        _check_detection(found.config, tuple(found.overrides))
    return None


def parsed(words: Sequence[str]) -> argparse.Namespace | None:
    """What a command makes of its options; None where it is asked for help.

    Every command reads its options first and imports and works afterwards. So it is called, and
    left as soon as its parser has read them: the parser need not be known here.

    Raises:
        InputError: it refuses them.
    """
    from hcl import COMMANDS

    name, *rest = words
    said = io.StringIO()
    try:
        with _only_parsing(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            importlib.import_module(COMMANDS[name][0]).main(rest)
    except _ParsedError as end:
        return end.found
    except SystemExit as end:
        if not end.code:
            return None
        last = said.getvalue().strip().rpartition("\n")[2]
        raise InputError(f"wrong options: {last}") from None
    raise AssertionError(f"hcl {name} has read no options")


@contextlib.contextmanager
def _only_parsing() -> Iterator[None]:
    """Whoever has parsed a whole command line here is interrupted."""

    def ending(method: Callable[..., argparse.Namespace]) -> Callable[..., argparse.Namespace]:
        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> argparse.Namespace:
            raise _ParsedError(method(*arguments, **named))

        return call

    kept = {name: getattr(argparse.ArgumentParser, name) for name in _WHOLE}
    for name, method in kept.items():
        setattr(argparse.ArgumentParser, name, ending(method))
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(argparse.ArgumentParser, name, method)


_WHOLE = ("parse_args", "parse_intermixed_args")


@functools.cache
def _check_detection(name: str, overrides: tuple[str, ...]) -> None:
    """The keys and types of a detector's config, where detectron2 is there to know them."""
    path = find_config(name, "detection")
    if importlib.util.find_spec("detectron2") is not None:
        from downstream.detection.model.config import load_config

        load_config(path, overrides)
