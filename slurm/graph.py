"""A pipeline's file: steps, each an ``hcl`` command, and what each needs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pretrain.core.config import TextLoader, read_yaml
from pretrain.core.errors import InputError
from pretrain.core.presets import find_config
from pretrain.core.settings import Settings, parse
from pretrain.core.text import suggest

VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class StepSettings(Settings):
    """A step as the file gives it.

    Attributes:
        run: the words of an ``hcl`` command, without ``hcl``; no shell ever sees them.
        needs: steps that must have finished.
        makes: files or folders the step writes; it is run again when one of them is gone.
        matrix: variables and their values; the step is there once for each combination, and
            what needs it needs all of them, or those that agree with its own matrix. A value
            ``${name}`` stands for the words of that variable, of which there may be none: then
            the step is left out, with what only it needs.
        cluster: values of the cluster's profile that are this step's own, as in ``nodes: 2``.
    """

    run: tuple[str, ...]
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    matrix: dict[str, tuple[str, ...]] = {}
    cluster: dict[str, str] = {}


class PipelineSettings(Settings):
    """The file.

    Attributes:
        name: of the pipeline.
        vars: what ``${...}`` stands for; ``output`` is the pipeline's folder.
        steps: by name.
    """

    name: str
    vars: dict[str, str]
    steps: dict[str, StepSettings]


@dataclass(frozen=True)
class Step:
    """One command, with its variables put in.

    Attributes:
        name: ``step``, or ``step[seed=0]`` where there is a matrix.
        family: the name in the file.
        words: of the command.
        needs: names of steps.
        makes: what it writes.
        cluster: keys and values of its own in the cluster's profile.
    """

    name: str
    family: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    cluster: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """A graph without circles.

    Attributes:
        name: of the pipeline.
        output: its folder.
        steps: by name, each after what it needs, otherwise in the file's order.
    """

    name: str
    output: Path
    steps: Mapping[str, Step]

    def chosen(self, name: str) -> list[str]:
        """The step of this name, or all of its matrix.

        Raises:
            InputError: there is none.
        """
        found = [step.name for step in self.steps.values() if name in (step.name, step.family)]
        if not found:
            raise InputError(
                f"no step '{name}' in pipeline '{self.name}'; {_near(name, self.steps)}"
            )
        return found

    def with_dependants(self, names: Iterable[str]) -> set[str]:
        """These steps and all that need them, directly or not."""
        found = set(names)
        for step in self.steps.values():  # each stands after what it needs
            if found.intersection(step.needs):
                found.add(step.name)
        return found


def load_pipeline(name: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline by path or preset name.

    Args:
        name: of the file.
        overrides: ``key=value``, other values for its variables.

    Raises:
        InputError: the file is at fault, a variable or a needed step is unknown, or steps need
            each other in a circle.
    """
    path = find_config(name, "pipeline")
    settings = parse(PipelineSettings, read_yaml(path, TextLoader), source=str(path))
    variables = _variables(settings, overrides, str(path))
    if not settings.steps:
        raise InputError(f"{path}: 'steps': there are none")
    instances = {
        family: _instances(family, step, variables, str(path))
        for family, step in settings.steps.items()
    }
    for family in _left_out(settings.steps, instances):
        instances[family] = {}
    if not any(instances.values()):
        raise InputError(f"{path}: 'steps': all are left out, for want of values in their matrices")
    steps: dict[str, Step] = {}
    for family, given in settings.steps.items():
        at = f"{path}: steps.{family}"
        if not given.run:
            raise InputError(f"{at}.run: give the words of a command")
        for instance, values in instances[family].items():
            known = {**variables, **values}
            steps[instance] = Step(
                instance,
                family,
                tuple(_fill(word, known, f"{at}.run") for word in given.run),
                tuple(_needs(given, values, instances, at)),
                tuple(_fill(word, known, f"{at}.makes") for word in given.makes),
                tuple((k, _fill(v, known, f"{at}.cluster")) for k, v in given.cluster.items()),
            )
    ordered = _ordered(steps, str(path))
    return Pipeline(settings.name, Path(variables["output"]), ordered)


def _variables(settings: PipelineSettings, overrides: Sequence[str], source: str) -> dict[str, str]:
    variables = dict(settings.vars)
    for key, value in variables.items():
        if "${" in value:
            raise InputError(f"{source}: vars.{key}: variables are put into words only")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in variables:
            raise InputError(
                f"'{override}': give key=value with a variable of {source}; {_near(key, variables)}"
            )
        variables[key] = value
    if not variables.get("output"):
        raise InputError(
            f"{source}: vars.output: missing; it is the folder of the pipeline's state"
        )
    return variables


def _instances(
    family: str, step: StepSettings, variables: Mapping[str, str], source: str
) -> dict[str, dict[str, str]]:
    """Names of a step's instances and the values of their matrix."""
    if not NAME.fullmatch(family):
        raise InputError(f"{source}: steps.{family}: names are of letters, digits, '_', '.', '-'")
    matrix = {}
    for key, given in step.matrix.items():
        at = f"{source}: steps.{family}.matrix.{key}"
        if key in variables:
            raise InputError(f"{at}: is a variable of the pipeline already")
        values = [word for value in given for word in _words_of(value, variables, at)]
        if not given or len(set(values)) < len(values):
            raise InputError(f"{at}: give values, each once")
        matrix[key] = values
    instances = {}
    for combination in itertools.product(*matrix.values()):
        chosen = dict(zip(matrix, combination, strict=True))
        suffix = ",".join(f"{key}={value}" for key, value in chosen.items())
        instances[f"{family}[{suffix}]" if chosen else family] = chosen
    return instances


def _words_of(value: str, variables: Mapping[str, str], at: str) -> list[str]:
    """The value, or the words of the variable that it names."""
    match = VARIABLE.fullmatch(value)
    return [value] if match is None or match[1] is None else _fill(value, variables, at).split()


def _left_out(
    steps: Mapping[str, StepSettings], instances: Mapping[str, Mapping[str, object]]
) -> set[str]:
    """Steps without instances, and those that only such steps need."""
    gone = {family for family, found in instances.items() if not found}
    while True:
        more = set()
        for family in steps.keys() - gone:
            users = {name for name, step in steps.items() if family in step.needs}
            if users and users <= gone:
                more.add(family)
        if not more:
            return gone
        gone |= more


def _needs(
    given: StepSettings,
    values: Mapping[str, str],
    instances: Mapping[str, Mapping[str, Mapping[str, str]]],
    at: str,
) -> list[str]:
    needs = []
    for family in given.needs:
        if family not in instances:
            raise InputError(f"{at}.needs: no step '{family}'; {_near(family, instances)}")
        for instance, theirs in instances[family].items():
            if all(values.get(key, value) == value for key, value in theirs.items()):
                needs.append(instance)
    return list(dict.fromkeys(needs))


def _fill(word: str, variables: Mapping[str, str], at: str) -> str:
    """Put variables in; ``$${`` stands for ``${``."""

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key is None:
            return "${"
        if key not in variables:
            raise InputError(f"{at}: unknown variable '${{{key}}}'; {_near(key, variables)}")
        return variables[key]

    return VARIABLE.sub(value, word)


def _ordered(steps: Mapping[str, Step], source: str) -> dict[str, Step]:
    try:
        TopologicalSorter({step.name: step.needs for step in steps.values()}).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise InputError(f"{source}: steps need each other in a circle: {circle}") from None
    ordered: dict[str, Step] = {}
    while len(ordered) < len(steps):
        left = (step for step in steps.values() if step.name not in ordered)
        ready = next(step for step in left if all(need in ordered for need in step.needs))
        ordered[ready.name] = ready
    return ordered


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return suggest(name, names, f"there are: {', '.join(names)}")
