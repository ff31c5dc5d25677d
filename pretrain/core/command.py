"""Commands as objects: what they take, which configuration they read, and how they run.

A table of contents names the module of each command; the module is loaded when the command is
called, so it imports heavy libraries inside the functions that need them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.core.arguments import add_output
from pretrain.core.errors import InputError
from pretrain.core.text import suggest


@dataclass(frozen=True)
class ConfigKind:
    """The configurations that a command takes: ``CONFIG`` and ``key=value``.

    Attributes:
        presets: folder of ``configs/`` with the presets.
        check: called with the words for the configuration and the overrides; gives the folder of
            the run that they describe, or None, and raises ``InputError`` for what is wrong.
        read: values of a file and of those it stands on; None where a file must stay as it is.
        output: the setting that ``--output`` is another way to write, if it is one.
    """

    presets: str
    check: Callable[[str, Sequence[str]], str | None]
    read: Callable[[Path], dict[str, Any]] | None
    output: str | None = None


def run_configs(presets: str, module: str) -> ConfigKind:
    """The configurations of a command that trains.

    Args:
        presets: folder of ``configs/`` with the presets.
        module: imported when it is needed; its ``CONFIGS`` reads them.
    """

    def configs() -> Any:
        return importlib.import_module(module).CONFIGS

    def check(config: str, overrides: Sequence[str]) -> str:
        return str(configs().load(config, overrides).output)

    def read(path: Path) -> dict[str, Any]:
        values: dict[str, Any] = configs().read(path)
        return values

    return ConfigKind(presets, check, read, output="output")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: the words after ``hcl``.
        summary: what it does, for ``--help``.
        add_arguments: adds its arguments to a parser.
        run: does the work and gives the exit status. Besides the arguments it finds the words of
            the whole command as ``command_line``.
        config: what ``arguments.config`` and ``arguments.overrides`` are, if it has them.
        saves_on_stop: a stop signal makes it save and end with ``exit_status.STOPPED``.
        for_jobs: it can be a job of a cluster or a step of a pipeline.
        usage: instead of the one that argparse makes.
        epilog: the last paragraph of ``--help``.
        renamed: old spellings of options, accepted with a note until the next version; "": of a
            flag that is no longer needed.
        output_was_word: likewise, the last word without a flag may stand for ``--output``.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    config: ConfigKind | None = None
    saves_on_stop: bool = False
    for_jobs: bool = True
    usage: str | None = None
    epilog: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    output_was_word: bool = False

    def parser(self) -> argparse.ArgumentParser:
        """A parser of its arguments."""
        parser = argparse.ArgumentParser(
            prog=f"hcl {self.name}",
            description=self.summary,
            usage=self.usage,
            epilog=self.epilog,
        )
        self.fill(parser)
        return parser

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments to a parser."""
        self.add_arguments(parser)
        if self.output_was_word:
            parser.add_argument("old_output", nargs="?", type=Path, help=argparse.SUPPRESS)
        if self.config is not None and self.config.output is not None:
            add_output(parser, f"the run's folder, the same as {self.config.output}=DIR", None)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read its arguments; wrong ones end the process with status 2, as argparse does."""
        parser = self.parser()
        # Settings may stand before, between and after options.
        lists = self.output_was_word or any(
            action.nargs in ("*", "+") for action in parser._get_positional_actions()
        )
        now = [new for word in words for new in self._new_spelling(word)]
        arguments = parser.parse_intermixed_args(now) if lists else parser.parse_args(now)
        if self.output_was_word:
            self._take_old_output(parser, arguments)
        if self.config is not None and self.config.output and arguments.output is not None:
            arguments.overrides.append(f"{self.config.output}={json.dumps(str(arguments.output))}")
        arguments.command_line = ["hcl", *self.name.split(), *words]
        return arguments

    def _new_spelling(self, word: str) -> list[str]:
        option, equals, value = word.partition("=")
        if option not in self.renamed:
            return [word]
        new = self.renamed[option]
        note(f"{option} is now {new}" if new else f"{option} is no longer needed")
        return [f"{new}{equals}{value}"] if new else []

    def _take_old_output(
        self, parser: argparse.ArgumentParser, arguments: argparse.Namespace
    ) -> None:
        old = arguments.__dict__.pop("old_output")
        if old is not None and arguments.output is not None:
            parser.error(f"unrecognized arguments: {old}")
        if old is not None:
            note(f"give the output with a flag, as in -o {old}")
            arguments.output = old
        if arguments.output is None:
            parser.error("the following arguments are required: -o/--output")

    def main(self, words: Sequence[str]) -> int:
        """Read its arguments and run."""
        return self.run(self.parse(words))


def note(text: str) -> None:
    """Tell the user of a spelling that this version still accepts."""
    print(f"note: {text}; the old way goes with the next version", file=sys.stderr)


@dataclass(frozen=True)
class Entry:
    """Where a command is found.

    Attributes:
        module: to import.
        summary: a few words for the table of contents.
        key: of the module's ``COMMANDS``; None: the module has one ``COMMAND``.
    """

    module: str
    summary: str
    key: str | None = None

    def load(self) -> Command:
        """Import the module."""
        module = importlib.import_module(self.module)
        command: Command = module.COMMAND if self.key is None else module.COMMANDS[self.key]
        return command


@dataclass(frozen=True)
class Group:
    """Commands below one word.

    Attributes:
        summary: a few words for the table of contents above.
        commands: by name.
        default: the command of this word alone, where it is one.
        purpose: a sentence for ``--help``.
    """

    summary: str
    commands: Mapping[str, Entry | Group]
    default: Entry | None = None
    purpose: str = ""

    def help(self, name: str) -> str:
        """The table of contents."""
        prog = f"hcl {name}".rstrip()
        lines = [f"usage: {prog} COMMAND ...   ({prog} COMMAND --help says more)", ""]
        lines += [self.purpose, ""] if self.purpose else []
        width = max(map(len, self.commands))
        lines += [f"  {key:<{width}}  {one.summary}" for key, one in self.commands.items()]
        return "\n".join(lines)

    def find(self, words: Sequence[str], name: str = "") -> tuple[Command, list[str]]:
        """The command that these words begin with, and the rest of them.

        Raises:
            InputError: there is none.
            SystemExit: help was asked for, and printed; or there were no words.
        """
        first = words[0] if words else None
        found = None if first is None else self.commands.get(first)
        if found is not None:
            rest = list(words[1:])
            if isinstance(found, Group):
                return found.find(rest, f"{name} {first}".lstrip())
            return found.load(), rest
        if self.default is not None:
            return self.default.load(), list(words)
        if first is None or first in ("-h", "--help"):
            print(self.help(name), file=sys.stdout if words else sys.stderr)
            raise SystemExit(0 if words else 2)  # as argparse does in a command
        hint = suggest(
            first,
            self.commands,
            f"commands: {', '.join(self.commands)}",
            prefix="" if name else "hcl ",
        )
        raise InputError(f"unknown command '{first}'; {hint}")

    def walk(self, name: str = "") -> list[tuple[str, Entry]]:
        """All commands below, each with its whole name."""
        found = [] if self.default is None else [(name, self.default)]
        for key, one in self.commands.items():
            inner = f"{name} {key}".lstrip()
            found += one.walk(inner) if isinstance(one, Group) else [(inner, one)]
        return found
