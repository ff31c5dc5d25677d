"""The command line itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import hcl


def test_help_lists_every_command_and_is_fast() -> None:
    durations = []
    for _ in range(3):  # the fastest of three: the machine may be busy
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, hcl.__file__, "--help"], capture_output=True, text=True, check=True
        )
        durations.append(time.monotonic() - start)
    for name in hcl.COMMANDS.commands:
        assert f"\n  {name} " in done.stdout
    assert min(durations) < 0.5


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, hcl; hcl.main(['--help']); "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert hcl.main(["pretrian"]) == 2
    assert capsys.readouterr().err == (
        "hcl: unknown command 'pretrian'; did you mean 'hcl pretrain'?\n"
    )


@pytest.mark.parametrize("name", sorted(hcl.COMMANDS.commands))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hcl.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: hcl {name}" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, hcl.__file__, "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_commands_arguments_need_torch() -> None:
    code = (
        "import sys, hcl\n"
        "for name, entry in hcl.COMMANDS.walk():\n"
        "    entry.load().parser()\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
