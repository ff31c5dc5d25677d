"""Which steps are to be run, and why."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pretrain.core.config import override
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.presets import find_config
from pretrain.core.settings import parse
from slurm.cluster import ClusterSettings
from slurm.commands import check_command, read_words
from slurm.graph import Pipeline, Step
from slurm.state import Record


def check_commands(pipeline: Pipeline) -> None:
    """Refuse now what a step would refuse in days: commands, options, settings, requests.

    Raises:
        InputError: naming the step.
    """
    for step in pipeline.steps.values():
        try:
            check_command(step.words)
        except InputError as error:
            raise InputError(f"step '{step.name}': {error}") from None
        own = override({}, (f"{key}={value}" for key, value in step.cluster))
        parse(ClusterSettings, own, source=f"step '{step.name}'", at="cluster")


def files_of(step: Step) -> dict[str, str]:
    """Hashes of the configurations and files that a step's words name, but not of what it makes."""
    config = _config(step)
    hashes = {} if config is None else {config[0]: config[1]}
    for word in step.words[1:]:
        if word not in step.makes and word not in hashes and Path(word).is_file():
            hashes[word] = sha256(Path(word))
    return hashes


def _config(step: Step) -> tuple[str, str] | None:
    """The word that names a configuration, and a hash: of its values, or of a detector's file."""
    command, arguments = read_words(step.words)
    if command is None or arguments is None or command.config is None:
        return None
    name = str(arguments.config)
    path = find_config(name, command.config.presets)
    if command.config.read is None:
        return name, sha256(path)
    values = command.config.read(path)
    return name, hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def reason(
    step: Step,
    records: Mapping[str, Record],
    forced: Collection[str] = (),
    pending: Collection[str] = (),
) -> str | None:
    """Why a step is to be run; None: it has been, and nothing has changed.

    Args:
        step: in question.
        records: of the pipeline's last runs.
        forced: steps asked for by name.
        pending: steps that will be run before it.
    """
    record = records.get(step.name)
    if record is None:
        return "not run yet"
    if record.state != "finished":
        how = {"running": "was interrupted", "stopped": "was stopped"}
        return how.get(record.state, f"failed last time ({record.why or status(record.exit)})")
    changed = _changed(step, record, records, pending)
    if changed is None and step.name in forced:
        return "asked for"
    return changed


def _changed(
    step: Step, record: Record, records: Mapping[str, Record], pending: Collection[str]
) -> str | None:
    """What is no longer as it was when the step finished."""
    words = _other_word(record.words, step.words)
    if words is not None:
        return f"its command has changed: {words}"
    for name, content in files_of(step).items():
        if record.files.get(name, content) != content:
            return f"{name} has changed"
    for need in step.needs:
        if need in pending:
            return f"{need} is run again"
        if need not in records or record.needs.get(need) != records[need].run:
            return f"{need} was run again since"
    gone = next((path for path in step.makes if not Path(path).exists()), None)
    return None if gone is None else f"{gone} is gone"


def status(exit: int | None) -> str:
    """An exit status in words."""
    if exit is None:
        return "no status"
    return f"exit {exit}" if exit >= 0 else f"killed by signal {-exit}"


def _other_word(before: tuple[str, ...], now: tuple[str, ...]) -> str | None:
    for old, new in itertools.zip_longest(before, now):
        if old is None:
            return f"'{new}' is new"
        if new is None:
            return f"'{old}' is gone"
        if old != new:
            return f"'{old}' is now '{new}'"
    return None
