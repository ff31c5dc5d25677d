"""The installer's decisions, with a machine that only pretends."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "install_detectron2.py"
MODULE = runpy.run_path(str(SCRIPT))
INSTALL, ERROR = MODULE["install"], MODULE["InstallError"]


class Machine:
    """Answers commands, and remembers them."""

    def __init__(self, *, online: bool, builds: bool = True, wheel: bool = True) -> None:
        self.online, self.builds, self.wheel = online, builds, wheel
        self.torch, self.pip = True, True
        self.detectron2, self.requirements = False, False
        self.commands: list[list[str]] = []
        self.said: list[str] = []

    def run(self, command: Sequence[str], timeout: float | None = None) -> tuple[int, str]:
        self.commands.append(list(command))
        status, output = self._answer(list(command))
        return status, f"some output\n{output}\n"

    def _answer(self, command: list[str]) -> tuple[int, str]:
        if command[:2] == ["git", "ls-remote"]:
            return (0, "abc HEAD") if self.online else (128, "Could not resolve host")
        assert command[0] == sys.executable
        if "-c" in command:
            code = command[-1]
            if "torch" in code:
                return (0, "2.11.0") if self.torch else (1, "No module named 'torch'")
            if not self.detectron2:
                return 1, "No module named 'detectron2'"
            ready = self.requirements or "model_zoo" not in code
            return (0, "0.7 /site/detectron2") if ready else (1, "No module named 'fvcore'")
        if command[-1] == "--version":
            return (0, "pip 25") if self.pip else (1, "No module named pip")
        if command[-1].startswith("git+"):
            self.detectron2 = self.requirements = self.builds
            return (0, "built") if self.builds else (1, "error: no compiler")
        if "--require-hashes" in command:
            self.pinned = Path(command[-1]).read_text(encoding="utf-8")
            self.detectron2 = self.wheel
            return (0, "installed") if self.wheel else (1, "THESE PACKAGES DO NOT MATCH THE HASHES")
        self.requirements = True
        return 0, "installed"

    def install(self, source: str = "auto") -> None:
        INSTALL(self.run, self.said.append, source)

    def installs(self) -> list[list[str]]:
        return [command for command in self.commands if "install" in command]


@pytest.fixture
def with_git(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def set_git(present: bool) -> None:
        shutil: Any = MODULE["shutil"]
        monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/git" if present else None)

    set_git(True)
    return set_git


def test_an_installation_is_left_alone() -> None:
    machine = Machine(online=True)
    machine.detectron2 = machine.requirements = True
    machine.install()
    assert machine.installs() == []
    assert machine.said == ["already installed: detectron2 0.7 /site/detectron2"]


def test_the_official_source_first(with_git: Callable[[bool], None]) -> None:
    machine = Machine(online=True)
    machine.install()
    (command,) = machine.installs()
    assert command[-1] == "git+https://github.com/facebookresearch/detectron2.git"
    assert "--no-build-isolation" in command
    assert "constraints.txt" in " ".join(command)
    assert machine.said[-1].startswith("verified")


@pytest.mark.parametrize("reason", ["no git", "offline", "no compiler"])
def test_otherwise_the_wheel(reason: str, with_git: Callable[[bool], None]) -> None:
    machine = Machine(online=reason != "offline", builds=False)
    with_git(reason != "no git")
    machine.install()
    assert machine.said[-1].startswith("verified")
    assert "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561" in machine.pinned
    assert "sal-detectron2==0.7.2" in machine.pinned
    *_, wheel, requirements = machine.installs()
    assert "--no-deps" in wheel
    assert {"fvcore", "iopath", "setuptools<81"} <= set(requirements)
    assert any("skipped" in line for line in machine.said)


def test_a_second_run_changes_nothing(with_git: Callable[[bool], None]) -> None:
    machine = Machine(online=False)
    machine.install()
    before = len(machine.installs())
    machine.install()
    assert len(machine.installs()) == before


def test_only_requirements_missing(with_git: Callable[[bool], None]) -> None:
    machine = Machine(online=True)
    machine.detectron2 = True
    machine.install()
    (command,) = machine.installs()
    assert "fvcore" in command


def test_another_file_under_the_wheels_name_is_refused(with_git: Callable[[bool], None]) -> None:
    with pytest.raises(ERROR, match="DO NOT MATCH THE HASHES"):
        Machine(online=False, wheel=False).install()


def test_the_choice_of_source_is_kept(with_git: Callable[[bool], None]) -> None:
    with pytest.raises(ERROR, match="--source wheel"):
        Machine(online=False).install("git")
    machine = Machine(online=True)
    machine.install("wheel")
    assert not any(command[0] == "git" for command in machine.commands)


@pytest.mark.parametrize("missing", ["torch", "pip"])
def test_what_must_be_there_first(missing: str, with_git: Callable[[bool], None]) -> None:
    machine = Machine(online=True)
    setattr(machine, missing, False)
    with pytest.raises(ERROR, match=missing):
        machine.install()
    assert machine.installs() == []


def test_the_real_runner() -> None:
    run = MODULE["run"]
    assert run([sys.executable, "-c", "print('here')"], 30) == (0, "here\n")
    assert run(["no-such-program-anywhere"], 5)[0] == 127
    assert run([sys.executable, "-c", "import time; time.sleep(9)"], 0.2)[0] == 124
