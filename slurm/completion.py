"""``hcl completion bash|zsh``: a script that makes the shell complete commands, options and names.

Options and subcommands come from the commands themselves, through the library shtab; presets and
the keys of settings from the files and classes that define them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from pretrain.core.command import Command, Group
from pretrain.core.errors import InputError
from pretrain.core.presets import configs_root
from slurm.explain import KINDS, settings_of

SHELLS = ("bash", "zsh")


def script(shell: str) -> str:
    """The script for one of ``SHELLS``.

    Raises:
        InputError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise InputError("completion needs shtab: pip install shtab") from None
    from hcl import COMMANDS

    functions: dict[str, list[str]] = {}
    root = argparse.ArgumentParser(prog="hcl")
    root.add_argument("--version", action="store_true", help="print the version")
    _add(root, COMMANDS, "", functions)
    preamble = "\n".join(_function(shell, name, found) for name, found in functions.items())
    text: str = shtab.complete(root, shell=shell, preamble=preamble)
    return text


def _add(
    parser: argparse.ArgumentParser, group: Group, name: str, functions: dict[str, list[str]]
) -> None:
    """Put all commands of a group below a parser."""
    below = parser.add_subparsers()
    for key, one in group.commands.items():
        inner = f"{name} {key}".lstrip()
        child = below.add_parser(key, help=one.summary)
        if isinstance(one, Group):
            _add(child, one, inner, functions)
        else:
            _arguments(child, one.load(), functions)
    if group.default is not None:
        _arguments(parser, group.default.load(), functions)


def _arguments(
    parser: argparse.ArgumentParser, command: Command, functions: dict[str, list[str]]
) -> None:
    command.fill(parser)
    kind = command.config.presets if command.config is not None else ""
    for action in parser._actions:
        if action.dest == "config" and kind:
            names = [file.stem for file in sorted((configs_root() / kind).glob("*.yaml"))]
            _complete(action, f"_hcl_presets_{kind}", names, functions)
        if action.dest == "overrides" and kind in KINDS:
            keys = [f"{key}=" for key in settings_of(kind)]
            _complete(action, f"_hcl_settings_{kind}", keys, functions)
        if action.dest == "key" and command.name == "explain":
            keys = list(dict.fromkeys(key for kind in KINDS for key in settings_of(kind)))
            _complete(action, "_hcl_settings", keys, functions)


def _complete(
    action: argparse.Action, name: str, words: Iterable[str], functions: dict[str, list[str]]
) -> None:
    action.complete = dict.fromkeys(SHELLS, name)  # type: ignore[attr-defined]
    functions[name] = list(words)


def _function(shell: str, name: str, words: list[str]) -> str:
    """A function of the shell that offers these words, and files."""
    listed = " ".join(words)
    if shell == "bash":
        return f'{name}() {{\n  compgen -W \'{listed}\' -- "$1"\n  compgen -f -- "$1"\n}}'
    return f"{name}() {{\n  compadd -S '' -- {listed}\n  _files\n}}"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def _run(arguments: argparse.Namespace) -> int:
    print(script(arguments.shell))
    return 0


COMMAND = Command(
    "completion",
    "Print a script that makes the shell complete hcl's commands, options, presets and settings. "
    'For bash: eval "$(hcl completion bash)", or write the output to '
    "~/.local/share/bash-completion/completions/hcl. For zsh: write it to a file named _hcl in a "
    "folder of $fpath.",
    _add_arguments,
    _run,
    for_jobs=False,
)
