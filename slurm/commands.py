"""Commands looked at without being run: what is wrong with their words is said now, not in days."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence

from pretrain.core.command import Command
from pretrain.core.errors import InputError


def check_command(words: Sequence[str]) -> str | None:
    """Look at a command's options and, where it has some, settings; nothing is run.

    Returns:
        The folder of the run that it makes, if it makes one.

    Raises:
        InputError: no such command, wrong options, or wrong settings.
    """
    command, arguments = read_words(words)
    if command is None or arguments is None or command.config is None:
        return None
    return command.config.check(arguments.config, arguments.overrides)


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command of these words, and those that follow its name.

    Raises:
        InputError: no such command, or none for a job.
        SystemExit: help was asked for, and printed.
    """
    from hcl import COMMANDS

    if words and words[0] in COMMANDS.commands:
        command, rest = COMMANDS.find(words)
        if command.for_jobs:
            return command, rest
    known = ", ".join(
        dict.fromkeys(
            name.partition(" ")[0] for name, entry in COMMANDS.walk() if entry.load().for_jobs
        )
    )
    raise InputError(f"no command 'hcl {' '.join(words[:1])}' for a job or step; one of {known}")


def read_words(words: Sequence[str]) -> tuple[Command | None, argparse.Namespace | None]:
    """A command and its arguments; None where it is asked for help.

    Raises:
        InputError: no such command, or wrong options.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            command, rest = find(words)
            return command, command.parse(rest)
    except SystemExit as end:
        if not end.code:
            return None, None
        last = said.getvalue().strip().rpartition("\n")[2]
        raise InputError(f"wrong options: {last}") from None
